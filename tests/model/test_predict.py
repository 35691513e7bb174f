"""Running networks: the tiny one's known answers, and windows against one whole pass."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from deepmir.config import SegmentConfig
from deepmir.errors import GeometryError, MissingPartError, WeightsError
from deepmir.model import predict
from deepmir.model.predict import (
    SOFTENING,
    OpenVinoNetwork,
    bounding_box,
    log_odds,
    open_network,
    predict_windows,
    sigmoid,
    softmax,
)

CPU = SegmentConfig(device="cpu", threads=1)


class _Recorder:
    """Stands in for a network: voxel-wise logits, and a note of what it was asked."""

    def __init__(self):
        self.shapes = []

    def __call__(self, batch):
        self.shapes.append(batch.shape)
        return np.stack([batch[:, 0] * 0, batch[:, 0], -batch[:, 1]], axis=1)


@pytest.fixture
def channels():
    return np.random.default_rng(0).normal(size=(2, 40, 37, 22)).astype(np.float32)


def whole(channels):
    return softmax(_Recorder()(channels[np.newaxis])[0] / SOFTENING)


# ---- the tiny network ------------------------------------------------------------------------


def test_the_findings_part_gives_known_logits(weights):
    network = open_network(weights, "findings", CPU)
    batch = np.zeros((1, 8, 8, 8, 4), dtype=np.float32)
    batch[0, 4:6] = 1
    batch[0, 1:3, 2, 3, 1] = -1.5, 2
    batch[0, 1:3, 4, 3, 1] = -1.5, 2
    batch[0, 7, 4, 3, 1] = 1
    batch[0, 2, 6, 3, 1] = -2
    classes = network(batch)[0].argmax(axis=0)
    assert classes[[2, 4, 6], 3, 1].tolist() == [1, 2, 3]
    assert np.count_nonzero(classes) == 3


def test_the_same_input_gives_the_same_bits(weights):
    batch = np.random.default_rng(0).random((1, 6, 32, 32, 32)).astype(np.float32)
    results = [open_network(weights, "anatomy", CPU)(batch) for _ in range(2)]
    assert results[0].shape == (1, 19, 32, 32, 32)
    assert results[0].tobytes() == results[1].tobytes()


def test_a_network_takes_inputs_of_changing_shape(weights):
    network = open_network(weights, "findings", CPU)
    for shape in [(1, 8, 8, 8, 4), (2, 8, 16, 8, 8), (1, 8, 8, 8, 4)]:
        logits = network(np.zeros(shape, dtype=np.float32))
        assert logits.shape == (shape[0], 4, *shape[2:])


def test_a_network_is_bound_to_no_core(weights):
    """Pinned, all processes of a cohort with one thread each would share the first core."""
    network = open_network(weights, "findings", CPU)
    network(np.zeros((1, 8, 8, 8, 4), dtype=np.float32))
    compiled = network._requests[0].get_compiled_model()
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 2)])
def test_a_batch_is_computed_side_by_side_as_one_by_one(weights, threads, streams):
    batch = np.random.default_rng(0).normal(size=(3, 8, 16, 16, 8)).astype(np.float32)
    network = open_network(weights, "findings", SegmentConfig(device="cpu", threads=threads))
    together = network(batch[:2])
    compiled = network._requests[0].get_compiled_model()
    assert compiled.get_property("NUM_STREAMS") == streams
    one_by_one = [network(image[np.newaxis])[0] for image in batch]
    np.testing.assert_allclose(together, one_by_one[:2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(network(batch), one_by_one, rtol=1e-4, atol=1e-4)


def test_results_are_copies(weights):
    network = open_network(weights, "findings", CPU)
    first = network(np.zeros((1, 8, 8, 8, 4), dtype=np.float32))
    before = first.copy()
    network(np.full((1, 8, 8, 8, 4), 3, dtype=np.float32))
    assert np.array_equal(first, before)


# ---- windows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("window", [(16, 16, 8), (40, 16, 4), (128, 128, 32)])
def test_windows_give_what_one_pass_gives(channels, window, overlap):
    where = np.ones(channels.shape[1:], dtype=bool)
    found = predict_windows(_Recorder(), channels, window=window, overlap=overlap, where=where)
    np.testing.assert_allclose(found, whole(channels), atol=1e-5)


def test_windows_are_multiples_and_never_longer_than_asked(channels):
    network = _Recorder()
    where = np.ones(channels.shape[1:], dtype=bool)
    predict_windows(network, channels, window=(128, 16, 8), overlap=0.25, where=where)
    assert set(network.shapes) == {(2, 2, 40, 16, 8)}


def test_only_the_box_around_the_mask_is_visited(channels):
    network = _Recorder()
    where = np.zeros(channels.shape[1:], dtype=bool)
    where[18, 18, 10] = True
    found = predict_windows(network, channels, window=(128, 128, 32), overlap=0.25, where=where)
    # straight and mirrored; a margin of 8, 8 and 4 on each side
    assert network.shapes == [(2, 2, 24, 24, 12)]
    assert found[:, 18, 18, 10] == pytest.approx(whole(channels)[:, 18, 18, 10], abs=1e-6)
    assert found[:, 0, 0, 0].tolist() == [1, 0, 0]


def test_windows_without_a_voxel_of_the_mask_are_left_out(channels):
    every, some = _Recorder(), _Recorder()
    where = np.zeros(channels.shape[1:], dtype=bool)
    where[1, 1, 1] = where[-2, -2, -2] = True
    options = {"window": (8, 8, 4), "overlap": 0.0}
    predict_windows(every, channels, where=np.ones_like(where), **options)
    predict_windows(some, channels, where=where, **options)
    assert len(some.shapes) == 2 < len(every.shapes)


def test_every_window_is_seen_mirrored_too():
    at = np.linspace(-3, 3, 16, dtype=np.float32)

    def one_sided(batch):
        """Logits that grow along I, whatever the input."""
        odds = np.broadcast_to(at[:, None, None], batch[:, 0].shape)
        return np.stack([np.zeros_like(odds), odds + batch[:, 0]], axis=1)

    channels = np.zeros((1, 16, 8, 4), np.float32)
    channels[0, 3] = 2
    where = np.ones(channels.shape[1:], dtype=bool)
    found = predict_windows(one_sided, channels, window=(16, 8, 4), overlap=0.0, where=where)[1]
    each = [special.expit((sign * at + channels[0, :, 0, 0]) / SOFTENING) for sign in (1, -1)]
    assert found[:, 3, 2] == pytest.approx(np.mean(each, axis=0), abs=1e-6)


def test_progress_ends_at_one(channels):
    shares = []
    predict_windows(
        _Recorder(),
        channels,
        window=(16, 16, 8),
        overlap=0.25,
        where=np.ones(channels.shape[1:], dtype=bool),
        progress=shares.append,
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("where", [np.zeros((40, 37, 22), bool), np.ones((40, 37, 21), bool)])
def test_an_empty_mask_or_one_of_another_grid_is_refused(channels, where):
    with pytest.raises(GeometryError, match="wanted a mask with voxels"):
        predict_windows(_Recorder(), channels, window=(16, 16, 8), overlap=0.25, where=where)


def test_the_channels_are_left_alone(channels):
    before = channels.copy()
    where = np.ones(channels.shape[1:], dtype=bool)
    predict_windows(_Recorder(), channels, window=(16, 16, 8), overlap=0.5, where=where)
    assert np.array_equal(channels, before)


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_probabilities_of_any_mask_sum_to_one(seed):
    rng = np.random.default_rng(seed)
    channels = rng.normal(size=(2, *rng.integers(1, 20, 3))).astype(np.float32)
    where = rng.random(channels.shape[1:]) > 0.9
    where.flat[0] = True
    found = predict_windows(_Recorder(), channels, window=(8, 8, 4), overlap=0.25, where=where)
    assert found.sum(axis=0) == pytest.approx(1, abs=1e-5)
    assert found[:, where] == pytest.approx(whole(channels)[:, where], abs=1e-5)


def test_of_two_certain_voxels_the_more_certain_one_can_be_told():
    channels = np.zeros((2, 8, 8, 4), dtype=np.float32)
    channels[0, 2, 2, 1], channels[0, 4, 4, 1] = 20, 40
    everywhere = np.ones((8, 8, 4), dtype=bool)
    found = predict_windows(_Recorder(), channels, window=(8, 8, 4), overlap=0.25, where=everywhere)
    odds = log_odds(found)[0]
    assert odds[[2, 4, 0], [2, 4, 0], [1, 1, 0]] == pytest.approx(
        np.array([20, 40, 0]) - np.log(2), abs=1e-4
    )


# ---- small laws ------------------------------------------------------------------------------


def test_softmax_and_sigmoid_survive_large_logits():
    logits = np.array([-1e4, 0, 1e4], dtype=np.float32)
    assert softmax(logits).tolist() == [0, 0, 1]
    assert sigmoid(logits).tolist() == [0, 0.5, 1]


def test_log_odds_undo_the_softening_and_know_what_is_impossible():
    logits = np.random.default_rng(0).normal(scale=5, size=(4, 50)).astype(np.float32)
    p = softmax(logits)[1:]
    assert special.expit(log_odds(softmax(logits / SOFTENING))) == pytest.approx(p, abs=1e-5)
    nothing = np.array([[0, 0, 1], [0, 1, 0]], dtype=np.float32)
    assert log_odds(nothing).tolist() == [[-np.inf, 80, -np.inf]]


def test_of_two_windows_the_less_certain_does_not_decide_alone():
    certain = iter((20.0, 4.0))

    def network(batch):
        odds = next(certain)
        return np.stack([batch[:, 0] * 0, batch[:, 0] * 0 + odds], axis=1).astype(np.float32)

    where = np.ones((24, 8, 4), dtype=bool)
    blended = predict_windows(
        network, np.zeros((1, *where.shape), np.float32), window=(16, 8, 4), overlap=0.5,
        where=where,
    )  # fmt: skip
    odds = log_odds(blended)[0, :, 0, 0]
    assert odds[[0, -1]] == pytest.approx([20, 4], rel=1e-3)
    assert 6 < odds[11] < 20


def test_a_bounding_box_has_a_margin_that_ends_with_the_grid():
    mask = np.zeros((9, 8, 7), dtype=bool)
    mask[2:4, 5, 0] = True
    assert bounding_box(mask) == (slice(2, 4), slice(5, 6), slice(0, 1))
    assert bounding_box(mask, margin=(1, 4, 2)) == (slice(1, 5), slice(1, 8), slice(0, 3))
    with pytest.raises(GeometryError, match="empty"):
        bounding_box(mask & False)


def test_a_signal_reaches_python_after_another_thread_dropped_a_network(weights):
    code = f"""
import signal, threading
from pathlib import Path
import numpy as np
from deepmir.model.predict import OpenVinoNetwork
held = [OpenVinoNetwork(Path({str(weights.onnx_path("findings"))!r}), threads=1)]
held[0](np.zeros((1, 8, 8, 8, 4), dtype=np.float32))
last = threading.Thread(target=held.clear)
last.start()
last.join()
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop"))
signal.raise_signal(signal.SIGTERM)
"""
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "asked to stop"), run.stderr


# ---- refusals and devices --------------------------------------------------------------------


def test_a_file_that_is_no_network_is_refused(tmp_path):
    path = tmp_path / "anatomy.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"cannot read .*anatomy\.onnx"):
        OpenVinoNetwork(path, threads=1)


def test_an_input_of_another_kind_is_refused(weights):
    network = open_network(weights, "anatomy", CPU)
    with pytest.raises(WeightsError, match=r"anatomy\.onnx does not take an input of shape"):
        network(np.zeros((1, 3, 32, 32, 32), dtype=np.float32))


def test_a_gpu_that_is_not_there_is_an_error(weights, monkeypatch):
    monkeypatch.setattr(predict, "_on_gpu", lambda *_: None)
    with pytest.raises(MissingPartError, match="--device cpu"):
        open_network(weights, "anatomy", SegmentConfig(device="gpu"))


def test_auto_takes_the_cpu_where_no_gpu_is(weights, monkeypatch):
    monkeypatch.setattr(predict, "_GPU_NODES", ("/nowhere",))
    monkeypatch.setattr(predict, "_on_gpu", pytest.fail)
    network = open_network(weights, "anatomy", SegmentConfig(device="auto"))
    assert isinstance(network, OpenVinoNetwork)


def test_auto_falls_back_where_torch_finds_no_gpu(weights, monkeypatch):
    monkeypatch.setattr(predict, "_GPU_NODES", (str(Path(__file__)),))
    monkeypatch.setattr(predict, "_on_gpu", lambda *_: None)
    network = open_network(weights, "anatomy", SegmentConfig(device="auto"))
    assert isinstance(network, OpenVinoNetwork)


def test_a_trainable_form_without_a_spec_is_refused(weights):
    pytest.importorskip("torch")
    predict_torch = pytest.importorskip("deepmir.model.predict_torch")
    with pytest.raises(WeightsError, match=r"weights\.safetensors does not hold the findings"):
        predict_torch.load_network(weights, "findings")
