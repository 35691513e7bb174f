"""One person from files to files: every unit and sign of phase, and each bad input."""

import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

import deepmir
from deepmir.cli import main
from deepmir.config import Config, ReconstructConfig
from deepmir.io.bids import ReconstructionOutputs, sidecar_path
from deepmir.io.nifti import read_volume
from deepmir.io.raw import RawScan, find_raw_scan

QUICK = Config(reconstruct=ReconstructConfig(inversion="tkd", largest_sphere_mm=7, refinements=0))


@pytest.fixture(scope="module")
def bids(phantom, raw, tmp_path_factory):
    """BIDS data set with one raw person; never to be changed."""
    return raw.write_bids(tmp_path_factory.mktemp("raw"), phantom.echoes)


@pytest.fixture
def reconstruct(tiny_weights):
    """Reconstruct with the tiny network and quick settings."""

    def run(scan, **options):
        return deepmir.reconstruct(scan, **{"config": QUICK, "weights": tiny_weights, **options})

    return run


@pytest.fixture
def command(tiny_weights, tmp_path, capsys):
    """Run ``deepmir reconstruct``; give (exit code, standard error)."""

    def run(*words, out="out"):
        code = main(
            [
                "reconstruct",
                "--quiet",
                "--out",
                str(tmp_path / out),
                "--weights",
                str(tiny_weights),
                *map(str, words),
            ]
        )
        return code, capsys.readouterr().err

    return run


def differ(result, expected):
    """Difference of two Chimaps that all but a thousandth of the voxels stay below."""
    return float(np.percentile(np.abs(result.chimap.data - expected.chimap.data), 99.9))


def chi_of_nucleus(result):
    i, j, k = (n // 2 for n in result.chimap.data.shape)
    return float(np.mean(result.chimap.data[i - 2 : i + 3, j - 2 : j + 3, k - 2 : k + 3]))


# ---- what comes out --------------------------------------------------------


def test_all_maps_come_out_of_a_bids_person(bids, reconstruct, phantom):
    result = reconstruct(find_raw_scan(bids, "07"), config=None)
    mask = result.mask
    assert 0.5 < mask.sum() / phantom.brain.sum() < 1
    assert np.corrcoef(result.chimap.data[mask], phantom.chi_ppm[mask])[0, 1] > 0.8
    assert result.sign.positive
    assert result.sign.certain
    assert np.median(result.r2starmap.data[mask]) == pytest.approx(20, rel=0.15)
    assert (result.minip.data <= result.swi.data).all()
    assert result.swi.data[33:36, 25, 17].min() < 0.9 * np.median(result.swi.data[mask])  # the vein
    assert result.provenance.config.reconstruct.inversion == "medi"


@pytest.mark.parametrize(
    ("stored", "unit"),
    [
        (lambda s: np.round((np.angle(s) + np.pi) / (2 * np.pi) * 4095), "0-4095"),
        (lambda s: np.round(np.angle(s) * 1000), "mrad"),
        (lambda s: -np.angle(s), "rad"),
    ],
)
def test_any_unit_and_sign_gives_the_same_map(
    bids, reconstruct, phantom, raw, tmp_path, stored, unit
):
    expected = reconstruct(find_raw_scan(bids, "07"))
    other = raw.write_bids(tmp_path, phantom.echoes, phase=stored)
    result = reconstruct(find_raw_scan(other, "07"))
    assert result.sign.positive == (unit != "rad")
    assert differ(result, expected) < 0.01
    assert np.percentile(np.abs(result.swi.data - expected.swi.data), 99.9) < 50


def test_a_forced_sign_is_obeyed_and_stated(bids, reconstruct):
    scan = find_raw_scan(bids, "07")
    right, wrong = (
        reconstruct(replace(scan, phase_sign=sign)) for sign in ("positive", "negative")
    )
    assert chi_of_nucleus(right) > 0.04
    assert chi_of_nucleus(wrong) < -0.04
    assert wrong.sign is None
    assert any("negative, as said" in notice.message for notice in wrong.notices)


def test_real_and_imaginary_part_do_as_well(bids, reconstruct, phantom, raw, tmp_path):
    parts = {"real": [], "imaginary": []}
    for n, signal in enumerate(phantom.echoes.signals):
        for name, data in (("real", signal.real), ("imaginary", signal.imag)):
            parts[name].append(raw.write_image(tmp_path / f"{name}{n}.nii", data))
    scan = RawScan(
        real=tuple(parts["real"]),
        imaginary=tuple(parts["imaginary"]),
        echo_times_s=raw.TIMES_S,
        field_strength_t=raw.B0_T,
    )
    expected = reconstruct(find_raw_scan(bids, "07"))
    assert differ(reconstruct(scan), expected) < 0.005


def test_a_series_and_a_single_echo_do_as_well(reconstruct, phantom, raw, tmp_path):
    signals = np.stack(phantom.echoes.signals, axis=-1)
    series = RawScan(
        magnitude=(raw.write_image(tmp_path / "m.nii", np.abs(signals)),),
        phase=(raw.write_image(tmp_path / "p.nii", np.angle(signals)),),
        echo_times_s=raw.TIMES_S,
        field_strength_t=raw.B0_T,
    )
    assert chi_of_nucleus(reconstruct(series)) > 0.04
    last = RawScan(
        magnitude=(raw.write_image(tmp_path / "m3.nii", np.abs(signals[..., 2])),),
        phase=(raw.write_image(tmp_path / "p3.nii", np.angle(signals[..., 2])),),
        echo_times_s=raw.TIMES_S[2:],
        field_strength_t=raw.B0_T,
    )
    result = reconstruct(last)
    assert chi_of_nucleus(result) > 0.04
    assert result.r2starmap is None


def test_phase_that_turns_round_a_line_is_unwrapped_by_its_laplacian(
    reconstruct, phantom, raw, tmp_path
):
    """Coils that were added without aligning them: no path unwraps such a phase."""
    i, j, _ = np.indices(raw.SHAPE)
    line = np.exp(1j * np.arctan2(j - 24.5, i - 14.5))
    for name, turn in (("clean", 1.0), ("turned", line)):
        signal = phantom.echoes.signals[2] * turn
        scan = RawScan(
            magnitude=(raw.write_image(tmp_path / f"{name}_m.nii", np.abs(signal)),),
            phase=(raw.write_image(tmp_path / f"{name}_p.nii", np.angle(signal)),),
            echo_times_s=raw.TIMES_S[2:],
            field_strength_t=raw.B0_T,
        )
        result = reconstruct(scan)
        said = [notice.message for notice in result.notices if "turns round" in notice.message]
        assert len(said) == (name == "turned")
    assert re.search(r"over [1-9]\.\d% of the brain", said[0])
    assert chi_of_nucleus(result) > 0.04
    chi = result.chimap.data[result.mask]
    assert np.corrcoef(chi, phantom.chi_ppm[result.mask])[0, 1] > 0.5


def test_a_stored_orientation_changes_nothing(bids, reconstruct, phantom, raw, tmp_path):
    affine = raw.phantom_affine() @ np.diag([-1, 1, 1, 1])
    affine[0, 3] = -raw.phantom_affine()[0, 3]
    flipped = []
    for part in (np.abs, np.angle):
        data = part(np.stack(phantom.echoes.signals, axis=-1))[::-1].transpose(2, 0, 1, 3)
        order = affine[:, [2, 0, 1, 3]]
        flipped.append(raw.write_image(tmp_path / f"{part.__name__}.nii", data, order))
    scan = RawScan(
        magnitude=(flipped[0],),
        phase=(flipped[1],),
        echo_times_s=raw.TIMES_S,
        field_strength_t=raw.B0_T,
    )
    expected = reconstruct(find_raw_scan(bids, "07"))
    by_header = reconstruct(scan)
    said = reconstruct(replace(scan, b0_direction=(2.0, 0.0, 0.0)))
    for result in (by_header, said):
        assert differ(result, expected) < 0.005


def test_without_ventricles_the_brain_is_the_reference_and_that_is_said(reconstruct, bids):
    settings = replace(QUICK, reconstruct=replace(QUICK.reconstruct, reference="csf"))
    result = reconstruct(find_raw_scan(bids, "07"), config=settings)
    assert any("no CSF" in notice.message for notice in result.notices)


def test_the_verb_writes_derivatives_that_say_how_they_were_made(command, bids, raw, tmp_path):
    words = ["--bids", bids, "--subject", "07"]
    code, message = command(*words)
    assert (code, message) == (0, "")
    out, names = tmp_path / "out", ReconstructionOutputs("07")
    assert all((out / name).exists() for name in names.files)
    image = nib.load(out / names.chimap)
    assert image.shape == raw.SHAPE
    assert image.affine == pytest.approx(raw.phantom_affine())
    assert json.loads((out / sidecar_path(names.chimap)).read_text())["Units"] == "ppm"
    record = json.loads((out / names.provenance).read_text())
    assert len(record["inputs"]) == 6
    assert record["config"]["reconstruct"]["background"] == "vsharp"
    code, message = command(*words)
    assert code == 2
    assert "--overwrite" in message
    assert command(*words, "--overwrite")[0] == 0


def test_segment_takes_raw_data_alone(bids, tiny_weights, tmp_path, capsys):
    code = main(
        [
            "segment",
            "--bids",
            str(bids),
            "--subject",
            "07",
            "--out",
            str(tmp_path / "out"),
            "--weights",
            str(tiny_weights),
        ]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "phase is positive: " in printed.out + printed.err
    out = tmp_path / "out"
    assert (out / "sub-07.html").exists()
    assert (out / ReconstructionOutputs("07").chimap).exists()
    record = json.loads((out / "sub-07/anat/sub-07_desc-provenance.json").read_text())
    assert [one["role"] for one in record["inputs"]] == ["swi", "Chimap"]


def test_raw_data_beside_an_swi_are_refused(bids, tiny_weights, tmp_path, capsys):
    words = ["--bids", str(bids), "--subject", "07", "--swi", "x.nii", "--out", str(tmp_path / "o")]
    assert main(["segment", *words, "--weights", str(tiny_weights)]) == 2
    assert "beside raw echoes" in capsys.readouterr().err


# ---- bad input -------------------------------------------------------------


@pytest.fixture
def files(phantom, raw, tmp_path):
    """Magnitude and phase of all echoes as one file each, to be spoiled; give a command line."""

    def write(*, mag=None, phase=None, affine=None, code=1, times="0.006,0.013,0.020", more=()):
        signals = np.stack(phantom.echoes.signals, axis=-1)
        mag = np.abs(signals) if mag is None else mag(np.abs(signals))
        phase = np.angle(signals) if phase is None else phase(np.angle(signals))
        paths = [
            raw.write_image(tmp_path / "m.nii", mag.astype(np.float32), code=code),
            raw.write_image(tmp_path / "p.nii", phase.astype(np.float32), affine, code=code),
        ]
        words = ["--mag", paths[0], "--phase", paths[1], "--field-strength", 3]
        return [*words, *([] if times is None else ["--echo-times", times]), *more]

    return write


def moved(raw):
    affine = raw.phantom_affine()
    affine[0, 3] += 5
    return affine


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ({"phase": lambda p: p[:-2]}, "grid"),
        ({"phase": lambda p: p[..., :2]}, "echoes"),
        ({"phase": lambda p: 0 * p + 1}, "p.nii"),
        ({"phase": lambda p: p * [1, 1, 0]}, "p.nii"),
        ({"phase": lambda p: np.where([1, 1, 0], p, p[..., :1] > 0)}, "echo 3 of 3"),
        ({"phase": lambda p: np.cumsum(np.abs(p), axis=0)}, "unwrapped"),
        ({"phase": lambda p: 0.3 * p}, "--phase-unit"),
        ({"phase": lambda p: np.full_like(p, np.nan)}, "NaN"),
        ({"mag": lambda m: m - 50}, "negative"),
        ({"times": "0.020,0.013,0.006"}, "do not increase"),
        ({"times": "6,13,20"}, "milliseconds"),
        ({"times": None}, "--echo-times"),
        ({"times": "six"}, "--echo-times"),
        ({"times": "0.006,0.013"}, "3 echoes"),
        ({"mag": lambda m: m[:, :, :1], "phase": lambda p: p[:, :, :1]}, "single slice"),
        ({"code": 0}, "--b0-direction"),
        ({"more": ["--b0-direction", "0,0"]}, "three numbers"),
        ({"more": ["--b0-direction", "0,0,0"]}, "no length"),
        ({"more": ["--bids", "x", "--subject", "07"]}, "none of --mag"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(command, files, spoiled, words, tmp_path):
    code, message = command(*files(**spoiled))
    assert code == 2, message
    assert words in message
    assert message.count("\n") <= 1
    assert not (tmp_path / "out").exists()


def test_phase_on_a_shifted_grid_is_refused(command, files, raw):
    code, message = command(*files(affine=moved(raw)))
    assert code == 2
    assert "grid" in message


def test_no_scan_and_no_field_strength_are_refused(command, files):
    assert "--mag and --phase" in command()[1]
    words = files()
    code, message = command(*(words[:4] + words[6:]))
    assert code == 2
    assert "--field-strength" in message


def test_an_empty_mask_is_refused(command, files, raw, tmp_path):
    mask = raw.write_image(tmp_path / "mask.nii", np.zeros(raw.SHAPE, np.uint8))
    code, message = command(*files(), "--brain-mask", mask)
    assert code == 2
    assert "empty" in message


def test_a_mask_of_an_array_is_checked_too(reconstruct, bids, raw):
    scan = find_raw_scan(bids, "07")
    for mask in (np.zeros(raw.SHAPE, bool), np.ones((3, 4, 5), bool)):
        with pytest.raises(deepmir.InputError, match="mask"):
            reconstruct(scan, brain_mask=mask)


def test_some_nan_lose_their_signal_and_are_counted(reconstruct, files, raw):
    def with_hole(phase):
        phase = phase.copy()
        phase[20:23, 20:23, 14:16] = np.nan
        return phase

    words = files(phase=with_hole)
    scan = RawScan(
        magnitude=(words[1],),
        phase=(words[3],),
        echo_times_s=raw.TIMES_S,
        field_strength_t=raw.B0_T,
    )
    result = reconstruct(scan)
    assert not result.swi.data[20:23, 20:23, 14:16].any()
    assert any("18 voxels" in notice.message for notice in result.notices)
    assert np.isfinite(result.chimap.data).all()


def test_an_echo_for_the_swi_that_is_not_there_is_refused(reconstruct, bids):
    settings = replace(QUICK, reconstruct=replace(QUICK.reconstruct, swi_echo=4))
    with pytest.raises(deepmir.InputError, match="swi_echo"):
        reconstruct(find_raw_scan(bids, "07"), config=settings)


def test_alternating_slices_are_corrected_and_said(reconstruct, bids, phantom, raw, tmp_path):
    sign = (-1.0) ** np.arange(raw.SHAPE[2])
    turned = replace(phantom.echoes, signals=tuple(s * sign for s in phantom.echoes.signals))
    other = raw.write_bids(tmp_path, turned)
    result = reconstruct(find_raw_scan(other, "07"))
    assert any("alternates" in notice.message for notice in result.notices)
    expected = reconstruct(find_raw_scan(bids, "07"))
    assert differ(result, expected) < 0.005


def test_a_bipolar_readout_is_corrected_and_said(reconstruct, bids, phantom, raw, tmp_path):
    ramp = 0.7 + 0.1 * np.arange(raw.SHAPE[1])[:, None]
    first, second, third = phantom.echoes.signals
    turned = replace(phantom.echoes, signals=(first, second * np.exp(1j * ramp), third))
    result = reconstruct(find_raw_scan(raw.write_bids(tmp_path, turned), "07"))
    (said,) = [one for one in result.notices if "bipolar" in one.message]
    assert said.level == "warning"
    assert "a ramp of 5.0 rad" in said.message
    assert "an offset of" in said.message
    assert differ(result, reconstruct(find_raw_scan(bids, "07"))) < 0.005


def test_of_two_echoes_it_is_said_that_the_readout_is_not_known(
    reconstruct, phantom, raw, tmp_path
):
    two = replace(phantom.echoes, signals=phantom.echoes.signals[:2], echo_times_s=raw.TIMES_S[:2])
    result = reconstruct(find_raw_scan(raw.write_bids(tmp_path, two), "07"))
    (said,) = [one for one in result.notices if "opposite directions" in one.message]
    assert said.level == "info"


def test_an_inversion_that_did_not_come_to_its_end_is_said(command, bids, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[reconstruct]\ntolerance = 1e-7\nrefinements = 0\nlargest_sphere_mm = 7\n")
    code, message = command("--bids", bids, "--subject", "07", "--config", config)
    assert code == 0, message
    assert message.startswith("warning: the inversion ended after 60 iterations")
    assert "reconstruct.tolerance" in message


@pytest.mark.parametrize("same_file", [True, False])
def test_magnitude_in_place_of_phase_is_refused(command, phantom, raw, tmp_path, same_file):
    signals = np.abs(np.stack(phantom.echoes.signals, axis=-1))
    whole = np.round(signals * 4000 / signals.max()).astype(np.int16)  # as phase from 0 to 4095
    mag, copy = (raw.write_image(tmp_path / name, whole) for name in ("m.nii", "copy.nii"))
    words = ["--mag", mag, "--phase", mag if same_file else copy, "--field-strength", 3]
    code, message = command(*words, "--echo-times", "0.006,0.013,0.020")
    assert code == 2
    assert "hold the same values" in message
    assert not (tmp_path / "out").exists()


def test_one_image_as_real_and_imaginary_part_is_refused(command, phantom, raw, tmp_path):
    part = raw.write_image(tmp_path / "r.nii", phantom.echoes.signals[0].real)
    words = ["--real", part, "--imag", part, "--field-strength", 3, "--echo-times", "0.006"]
    code, message = command(*words)
    assert code == 2
    assert "echo 1 of the imaginary part" in message


# ---- real scans ------------------------------------------------------------


@pytest.mark.shared
def test_a_real_philips_scan_gives_a_paramagnetic_pallidum(shared_data):
    folder = shared_data / "gre_philips_3t" / "nifti"
    scan = RawScan(
        magnitude=tuple(sorted(folder.glob("*_e[12].nii.gz"))),
        phase=tuple(sorted(folder.glob("*_ph.nii.gz"))),
    )
    result = deepmir.reconstruct(scan)
    assert result.sign.certain
    assert "basal ganglia" in result.sign.reason
    assert len(scan.magnitude) == 2


@pytest.mark.shared
def test_a_real_block_at_7_t_needs_its_unit_said(shared_data):
    folder = shared_data / "gre_7t_block"
    scan = RawScan(
        magnitude=(folder / "Mag.nii",),
        phase=(folder / "Phase.nii",),
        echo_times_s=(0.004, 0.008, 0.012),
        field_strength_t=7.0,
    )
    mask = np.ones(nib.load(folder / "Mag.nii").shape[:3], bool)
    with pytest.raises(deepmir.InputError, match="full-range"):
        deepmir.reconstruct(scan, brain_mask=mask)
    result = deepmir.reconstruct(replace(scan, phase_unit="full-range"), brain_mask=mask)
    inner = result.chimap.data[result.mask]
    assert 0.01 < np.std(inner) < 0.1
    assert result.sign.certain


def test_what_is_written_can_be_read_back(reconstruct, bids, tmp_path):
    result = reconstruct(find_raw_scan(bids, "07"))
    deepmir.write_reconstruction(result, tmp_path)
    volume, notices = read_volume(tmp_path / result.outputs.chimap, deepmir.Modality.CHIMAP)
    assert volume.data == pytest.approx(result.chimap.data)
    assert notices == ()
