"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const slider = document.getElementById("smoothing");
  const shownRuns = data.runs.map(() => true);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const COLOURS = 8;
  let logSteps = false;
  let printing = false;

  const style = () => {
    const sheet = getComputedStyle(document.documentElement);
    const read = (name) => sheet.getPropertyValue(name).trim();
    return printing && dark.matches
      ? { text: "#1b1f26", grid: "#e9ecf0", card: "#ffffff", run: (i) => read(`--r${i % COLOURS}`) }
      : { text: read("--quiet"), grid: read("--grid"), card: read("--card"), run: (i) => read(`--r${i % COLOURS}`) };
  };

  // The mean of the finite values in a window around each point, of fewer at the ends.
  function smooth(values, share) {
    const half = Math.floor((values.length * share) / 2);
    if (!half) return values;
    const sums = [0], counts = [0];
    values.forEach((value, i) => {
      sums.push(sums[i] + (value ?? 0));
      counts.push(counts[i] + (value === null ? 0 : 1));
    });
    return values.map((_, i) => {
      const start = Math.max(0, i - half), end = Math.min(values.length, i + half + 1);
      const count = counts[end] - counts[start];
      return count ? (sums[end] - sums[start]) / count : null;
    });
  }

  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 1e5 || (size < 1e-3 && size > 0)) return value.toExponential(2);
    return value.toLocaleString("en", { maximumSignificantDigits: 4 });
  };
  const short = (value) => {
    if (value === null) return "";
    const size = Math.abs(value);
    if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)}G`;
    if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
    if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
    return size < 1e-3 && size > 0 ? value.toExponential(0) : `${+value.toPrecision(4)}`;
  };

  class Chart {
    constructor(figure, spec) {
      this.figure = figure;
      this.spec = spec;
      this.place = figure.querySelector(".plot");
      this.logY = spec.log_y;
      this.hidden = new Set(); // curves that the legend has switched off
      const button = figure.querySelector(".log-y");
      button.addEventListener("click", () => {
        this.logY = !this.logY;
        button.setAttribute("aria-pressed", this.logY);
        this.draw();
      });
      new ResizeObserver(() => this.resize()).observe(this.place);
    }

    // Several lines a curve: as measured, faint, and smoothed.
    lines(look) {
      const share = this.spec.smoothed && slider ? slider.value / 100 : 0;
      const many = this.spec.curves.length;
      return this.spec.curves.flatMap((curve, index) => {
        const colour = this.spec.by_curve ? `hsl(${(index * 300) / many} 62% 50%)` : look.run(curve.run);
        const raw = { curve, index, points: curve.raw, stroke: colour };
        if (curve.marks) return [{ ...raw, width: 1.4, dash: [5, 4], marks: true }];
        const base = curve.mean.length ? curve.mean : curve.raw;
        const smoothed = smooth(base.map((point) => point[1]), share);
        const changed = curve.mean.length || smoothed.some((value, i) => value !== base[i][1]);
        const main = { ...raw, points: base.map((point, i) => [point[0], smoothed[i]]), width: this.spec.by_curve ? 1.4 : 2 };
        // What is faint is drawn first, and stays out of the legend.
        return changed && !this.spec.by_curve ? [{ ...raw, stroke: colour + "66", width: 1, faint: true }, main] : [main];
      });
    }

    visible(line) {
      return shownRuns[line.curve.run] && !this.hidden.has(line.index);
    }

    draw() {
      const look = style();
      const lines = this.lines(look);
      const positive = (value) => (value === null || (this.logY && value <= 0) ? null : value);
      const tables = lines.map(({ points }) => {
        const kept = logSteps ? points.filter((point) => point[0] > 0) : points;
        return [kept.map((point) => point[0]), kept.map((point) => positive(point[1]))];
      });
      const joined = tables.length ? uPlot.join(tables) : [[]];
      if (this.plot) this.plot.destroy();
      const axis = { stroke: look.text, grid: { stroke: look.grid, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
      const options = {
        ...this.size(),
        padding: [10, 20, 0, 0],
        scales: {
          x: { time: false, distr: logSteps ? 3 : 1 },
          y: { distr: this.logY ? 3 : 1 },
        },
        axes: [
          { ...axis, size: 30, values: (_, ticks) => ticks.map(short) },
          { ...axis, size: 54, values: (_, ticks) => ticks.map(short) },
        ],
        legend: { markers: { width: 0, fill: (_, i) => (i ? lines[i - 1].stroke : "transparent") } },
        cursor: {
          y: false,
          sync: { key: "steps", scales: ["x", null] },
          points: { size: 7, show: (plot, i) => (lines[i - 1].faint ? false : uPlotPoint(lines[i - 1].stroke)) },
          // The nearest step at which this line has a value: lines are measured at different steps.
          dataIdx: (plot, i, closest) => nearest(plot.data[i], plot.data[0], closest),
        },
        series: [
          { label: "step", value: (_, value) => (value === null || value === undefined ? "–" : value.toLocaleString("en")) },
          ...lines.map((line) => ({
            label: this.label(line.curve),
            class: line.faint ? "raw" : undefined,
            stroke: line.stroke,
            width: line.width,
            dash: line.dash,
            points: { show: line.marks || line.points.length < 40, size: line.marks ? 8 : 4, fill: line.marks ? look.card : line.stroke, width: 1.8 },
            show: this.visible(line),
            value: (_, value) => number(value),
          })),
        ],
        hooks: {
          setSeries: [
            (plot, i, change) => {
              if (i === null || change.show === undefined || this.following) return;
              this.follow(plot, lines, lines[i - 1], change.show);
            },
          ],
        },
      };
      this.plot = new uPlot(options, joined, this.place);
      this.plot.lines = lines;
      this.reachableLegend();
    }

    label(curve) {
      if (data.runs.length > 1 || this.spec.by_curve) return curve.label;
      const rest = curve.label.slice(data.runs[0].length);
      return curve.label.startsWith(data.runs[0]) ? rest.replace(/^, /, "") || "training" : curve.label;
    }

    // A curve's faint line comes and goes with it.
    follow(plot, lines, line, show) {
      this.hidden[show ? "delete" : "add"](line.index);
      this.following = true;
      lines.forEach((other, i) => {
        if (other.index === line.index && other !== line) plot.setSeries(i + 1, { show });
      });
      this.following = false;
    }

    showRuns() {
      if (!this.plot) return;
      this.following = true;
      this.plot.lines.forEach((line, i) => this.plot.setSeries(i + 1, { show: this.visible(line) }));
      this.following = false;
    }

    // uPlot's legend answers to the mouse alone.
    reachableLegend() {
      this.place.querySelectorAll(".u-legend .u-series:not(:first-child) th").forEach((cell) => {
        cell.tabIndex = 0;
        cell.setAttribute("role", "button");
        cell.addEventListener("keydown", (event) => {
          if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            cell.click();
          }
        });
      });
    }

    size() {
      const wide = this.figure.parentElement.classList.contains("wide");
      const width = Math.max(200, Math.floor(this.place.clientWidth));
      return { width, height: wide ? Math.min(420, Math.max(280, Math.round(width * 0.5))) : 220 };
    }

    resize() {
      if (this.plot && this.plot.width !== this.size().width) this.plot.setSize(this.size());
    }
  }

  function uPlotPoint(colour) {
    const point = document.createElement("div");
    point.style.background = colour;
    return point;
  }

  function nearest(values, steps, closest) {
    if (values[closest] !== null && values[closest] !== undefined) return closest;
    let left = closest, right = closest;
    const empty = (i) => values[i] === null || values[i] === undefined;
    while (left >= 0 && empty(left)) left--;
    while (right < values.length && empty(right)) right++;
    if (left < 0) return right < values.length ? right : closest;
    if (right >= values.length) return left;
    return steps[closest] - steps[left] <= steps[right] - steps[closest] ? left : right;
  }

  const charts = [...document.querySelectorAll("[data-chart]")].map(
    (figure) => new Chart(figure, data.charts[figure.dataset.chart]),
  );
  const drawAll = () => charts.forEach((chart) => chart.draw());

  const onPress = (button, change) =>
    button?.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", pressed);
      change(pressed);
    });

  document.querySelectorAll("[data-run]").forEach((chip) =>
    onPress(chip, (pressed) => {
      shownRuns[chip.dataset.run] = pressed;
      charts.forEach((chart) => chart.showRuns());
    }),
  );
  onPress(document.getElementById("log-x"), (pressed) => {
    logSteps = pressed;
    drawAll();
  });
  slider?.addEventListener("input", () => {
    document.getElementById("smoothed").textContent = `${slider.value} %`;
    drawAll();
  });

  document.querySelectorAll(".copy").forEach((button) =>
    button.addEventListener("click", async () => {
      const command = button.parentElement.querySelector(".command");
      // A page opened from a file has no clipboard in some browsers: then the text is selected.
      try {
        await navigator.clipboard.writeText(command.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(command);
        button.textContent = "selected";
      }
      setTimeout(() => (button.textContent = "copy"), 1500);
    }),
  );

  dark.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => ((printing = true), drawAll()));
  addEventListener("afterprint", () => ((printing = false), drawAll()));
  drawAll();
})();
