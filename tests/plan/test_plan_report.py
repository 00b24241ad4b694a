import made_up_plans

from t5x_mini.plan.report import CAVEAT, report

GIB = made_up_plans.GIB


def test_what_fits():
    text = report(made_up_plans.plan())
    assert "train step on v5e:4x4: encoder_decoder, 1,000,000 parameters, Adafactor" in text
    assert "64 rows of 512 + 114 tokens in 1 microbatch(es), remat full, bfloat16; mesh: data 2, fsdp 8" in text
    assert "fits: 8.00 GiB of 16.00 GiB left (50%); most are activations and temporaries" in text
    assert "a temporary of 1.000: f32[8,512] dot_general" in text
    assert "1.25 times the model's" in text
    assert "0.0100 to 0.0120: an MFU of 40% to 50%" in text
    assert CAVEAT in text
    assert "--search" not in text
    assert text.endswith("note: Made up.")


def test_activations_that_do_not_fit():
    text = report(made_up_plans.with_memory(temporaries=20 * GIB))
    assert "does not fit: 7.00 GiB too much for 16.00 GiB; most are activations and temporaries" in text
    assert "REMAT = 'full', more NUM_MICROBATCHES" in text
    assert "--search tries" in text


def test_a_state_that_does_not_fit():
    text = report(made_up_plans.with_memory(parameters=20 * GIB, temporaries=None))
    assert "does not fit: 5.00 GiB too much; most are parameters" in text
    assert "a larger MESH_FSDP or MESH_MODEL" in text


def test_what_was_not_compiled_says_so():
    text = report(made_up_plans.plan(flops=None, collectives=(), topology="gpu:8xh100"))
    assert "A step takes more" in text
    assert "as compiled" not in text


def test_parameters_on_several_devices_are_named():
    text = report(made_up_plans.plan(replicated=("token_embedder/embedding",)))
    assert "whole on several devices of fsdp x model: token_embedder/embedding" in text


def test_several_slices():
    assert "2 slices of v5e:4x4" in report(made_up_plans.plan(slices=2))
