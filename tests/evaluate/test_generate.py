"""`t5x-mini generate` and `t5x_mini.load` on a run that was trained here: from the command line to the answer."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tiny_runs

import t5x_mini
from t5x_mini.checkpoint.source import open_source
from t5x_mini.errors import UserError
from t5x_mini.evaluate import generate, sentinels
from t5x_mini.tasks import vocabularies

TEXT = "the old captain <extra_id_0> the green house <extra_id_1> and then goes home again."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.fixture(scope="module")
def run_dir(tiny):
    """A run that has learned how its text goes, if not what is in it."""
    folder = str(tiny.folder / "run")
    settings = {"MODEL_DIR": folder, "TRAIN_STEPS": 60, "CHECKPOINT_PERIOD": 30}
    assert (
        tiny.run(
            "train",
            **settings,
            **{"TransformerConfig.num_encoder_layers": 1, "TransformerConfig.num_decoder_layers": 1},
        ).code
        == 0
    )
    return folder


@pytest.fixture(scope="module")
def model(run_dir):
    return t5x_mini.load(run_dir)


def ask(*arguments, stdin="", monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    return tiny_runs.run(["generate", *arguments])


def test_a_run_is_loaded_with_its_vocabulary_and_lengths(tiny, run_dir, model):
    assert model.vocabulary.path == str(tiny.folder / "tiny.model")
    assert (model.input_length, model.max_length, model.ends_inputs) == (64, 14, True)
    assert model.config.dtype == "float32"
    source = open_source(run_dir)
    name = "params/decoder/decoder_norm/scale"
    np.testing.assert_array_equal(model._params["decoder/decoder_norm/scale"], source.read(name))


def test_one_of_a_runs_checkpoints_is_another_model(run_dir, model):
    earlier = t5x_mini.load(f"{run_dir}/checkpoints/30")
    (text, target) = ("the red bird <extra_id_0> the quiet town", "<extra_id_0> paints")
    assert earlier.score(text, target)[0].total != model.score(text, target)[0].total


def test_what_was_learned_scores_better(model):
    """After 60 steps: which sentinel comes first, and that an answer ends."""
    good, bad = model.score([TEXT, TEXT], ["<extra_id_0> a <extra_id_1> a", "<extra_id_1> a <extra_id_0> a"])
    assert good.total > bad.total


def test_the_filled_sentence_is_printed(run_dir, model):
    done = ask(f"--checkpoint={run_dir}", TEXT)
    answer = model.generate_ids(model.inputs([TEXT]), generate.decoding_options.make()[0])[0].ids[0]
    filled, missing = sentinels.fill(model.vocabulary, TEXT, answer)
    assert (done.code, done.out) == (0, filled + "\n")
    assert f"loading {run_dir}/checkpoints/60" in done.err
    assert ("the model wrote nothing for" in done.err) == bool(missing)
    raw = ask(f"--checkpoint={run_dir}", "--raw", TEXT)
    assert raw.out == model.generate(TEXT)[0] + "\n"


def test_several_answers_have_their_scores_in_front(run_dir, model):
    done = ask(f"--checkpoint={run_dir}", "--method=beam", "--num_decodes=2", "--max_length=6", "a small child")
    first, second = done.out.splitlines()
    assert float(first.split()[0]) >= float(second.split()[0])
    (texts,) = model.generate("a small child", method="beam", num_decodes=2, max_length=6)
    assert [line[10:] for line in (first, second)] == texts


def test_lines_of_standard_input_are_answered_in_order(run_dir, model, monkeypatch):
    lines = ["the red bird", "", "every farmer follows"]
    done = ask(f"--checkpoint={run_dir}", stdin="\n".join(lines) + "\n", monkeypatch=monkeypatch)
    one, two = model.generate([lines[0], lines[2]])
    assert done.out == f"{one}\n\n{two}\n"


def test_lines_before_one_that_is_not_utf_8_are_answered(run_dir, model, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"the red bird\n\n\xe9t\xe9\nevery farmer\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    done = ask(f"--checkpoint={run_dir}")
    assert (done.code, done.out) == (1, model.generate(["the red bird"])[0] + "\n\n")
    assert "Line 3 of standard input is not UTF-8: it has the byte 0xe9 at place 0. Convert it" in done.err


def test_what_was_typed_is_printed_as_it_was(run_dir, monkeypatch):
    text = "猫  {x}\x0b\u2028 the old captain  <extra_id_99> the"
    done = ask(f"--checkpoint={run_dir}", stdin=text + "\r\n", monkeypatch=monkeypatch)
    assert (done.code, done.out) == (0, text + "\n")
    assert "the model wrote nothing for <extra_id_99>" in done.err


def test_a_conversation_goes_on_after_a_mistake(run_dir, monkeypatch, capsys, model):
    typed = iter(["a <extra_id_100> b", "", "the red bird"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next_or_end(typed))
    generate.generate(run_dir)
    shown = capsys.readouterr()
    assert "no <extra_id_100>" in shown.err
    assert shown.out == model.generate("the red bird")[0] + "\n"


def next_or_end(lines):
    for line in lines:
        return line
    raise EOFError


def test_sampling_repeats_with_its_seed(run_dir):
    def sample(seed):
        return ask(f"--checkpoint={run_dir}", "--method=sample", f"--seed={seed}", "--raw", TEXT).out

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint=runs/nowhere", "a"], "There is no checkpoint in runs/nowhere"),
        (["--checkpoint=runs/nowhere", "--temperature=2", "a"], "'greedy' doesn't read"),
        (["--checkpoint=runs/nowhere", "--method=bean", "a"], "did you mean beam?"),
        (["--checkpoint=RUN", "--vocabulary=docs_8k", "a"], "Name the one that it was trained with"),
        (["--checkpoint=RUN", "a <extra_id_100>"], "no <extra_id_100>"),
        (["--checkpoint=runs/nowhere", "a", "b\udce9"], "Text 2 is not UTF-8: it has the byte 0xe9 at place 1."),
    ],
)
def test_mistakes_are_told(run_dir, tmp_path, monkeypatch, arguments, words):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    done = ask(*(word.replace("RUN", run_dir) for word in arguments))
    assert done.code == 1
    assert words in done.err
    assert "Traceback" not in done.err


class Sourceless:
    """A checkpoint that knows no vocabulary, as some of Hugging Face's."""

    def __init__(self, source):
        import dataclasses

        self.origin = dataclasses.replace(source.origin, vocabulary=None, feature_lengths=None)
        self.shapes, self.read = source.shapes, source.read


def test_a_checkpoint_without_a_vocabulary_wants_one(run_dir, tiny):
    from t5x_mini.inference import from_source

    source = Sourceless(open_source(run_dir))
    with pytest.raises(UserError, match="doesn't say which vocabulary"):
        from_source(source).generate("a")
    named = from_source(source, vocabulary=str(tiny.folder / "tiny.model"), dtype="bfloat16")
    assert named.config.dtype == "bfloat16"
    assert (named.input_length, named.max_length, named.ends_inputs) == (512, 128, True)
    assert isinstance(named.vocabulary, vocabularies.SentencePieceVocabulary)
    with pytest.raises(UserError, match="dtype = 'float16' must be"):
        from_source(source, dtype="float16")


def test_importing_the_package_is_light():
    program = (
        "import sys, t5x_mini\nassert 'load' in dir(t5x_mini)\n"
        "print(sorted({'jax', 'numpy', 'tensorflow', 'orbax'} & set(sys.modules)))\n"
        "print(t5x_mini.load.__name__, 'tensorflow' in sys.modules)\n"
        "try: t5x_mini.lod\nexcept AttributeError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["[]", "load False", "module 't5x_mini' has no attribute 'lod'"], ran.stderr
