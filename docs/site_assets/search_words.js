// Errors that are pasted into the search box are words: without operators (a colon would name a field, a hyphen forbid a
// word), numbers, paths, and what stands in most of them. Loaded before the theme makes its worker.
(() => {
  const COMMON = new Set(
    ("a an and are as at be but by can't do does doesn't for from has have here how i if in is it its must my no " +
     "not of on only or that the there these this to was what which with write").split(" "));

  const plain = (query) => {
    const words = query
      .replace(/^\s*t5x-mini: error:|--gin\./g, " ")
      .replace(/[^\p{L}\p{N}_\s.\/'-]/gu, " ")
      .replace(/(^|\s)[-'.]+|['.]+(?=\s|$)/g, " ")
      .trim().split(/\s+/);
    const telling = words.filter((word) => !COMMON.has(word.toLowerCase()) && !/^[-\d.]+$|\//.test(word));
    return (telling.length ? telling : words).join(" ");
  };

  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (message, ...rest) {
    const asked = typeof message?.data === "string" ? { ...message, data: plain(message.data) } : message;
    return post.call(this, asked, ...rest);
  };
})();
