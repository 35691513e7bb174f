"""The training loop: from a task that makes batches to a checkpoint that resumes.

    task.batch(step) ─▶ loss ─▶ gradients ─▶ weights ─▶ moving average ─▶ log, validate, save

A batch is a pure function of (seed, step), never of the clock, so a run that was stopped and
resumed ends with the same weights as one that was not. Whatever ends a run early (a signal, the
time, a full disk, too little memory, a loss that is no number) leaves a checkpoint to go on from.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType, TracebackType
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from deepmir.errors import ConfigError, TrainingError
from deepmir.memory import keep_freed_memory
from deepmir.model.unet import UNet, UNetSpec, spec_from_json, spec_to_json
from deepmir.training.recipes import OptimisationConfig, Recipe, recipe_as_json, recipe_from_json
from deepmir.training.resuming import changed_settings
from deepmir.training.team import ALONE, Forward, Share, Team

CHECKPOINT_NAME = "last.pt"
BEST_NAME = "best.pt"
BEST_RECORD_NAME = "best.json"
LOG_NAME = "log.jsonl"
UNUSABLE_STEPS_ALLOWED = 10
WAIT_S = 0.2
_FORMAT = 1

State = dict[str, Tensor]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs (B, C, I, J, K) and whatever the task's loss compares the logits with."""

    inputs: Tensor
    targets: tuple[Tensor, ...]

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on a device."""
        return Batch(self.inputs.to(device), tuple(target.to(device) for target in self.targets))


class Task(Protocol):
    """What is learned: the seam between this loop and the parts of the network."""

    def build(self) -> UNet:
        """Fresh network."""

    def batch(self, step: int) -> Batch:
        """Batch of one step: the same for the same step, whenever it is asked for."""

    def missing(self, step: int) -> str | None:
        """Say what a batch still waits for; None when it can be made."""

    def no_validation(self) -> str | None:
        """Say why there is nothing to validate on; None where there is."""

    def loss(self, logits: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Loss of a batch, float32; the logits are those of the levels, finest first."""

    def validate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Scores of a network on fixed validation samples; those that are not defined lack."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One run, its data opened: to be entered, so that what goes on in the background ends."""

    task: Task
    recipe: Recipe
    initial: State | None = None
    """Weights to start from in place of random ones, when there is no checkpoint to resume."""
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        """Use the data."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the data."""
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How long and on what a run works; nothing here changes what it learns."""

    minutes: float | None = None
    """Stop after so many minutes; the checkpoint resumes."""
    steps: int | None = None
    """Length of the schedule in place of the recipe's; a resumed run may lengthen it."""
    resume: bool = True
    """Go on from the checkpoint in the output folder if there is one."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    workers: int = 0
    """Processes that simulate cases meanwhile; 0: half as many as there are CPU cores."""
    makers: int = 0
    """Processes that make batches; 0: one, beside a GPU a quarter of the CPU cores."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    """Processes that share every batch, one a GPU; 0: as many as there are GPUs."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """Where a run ended."""

    step: int
    steps: int
    checkpoint: Path
    scores: Mapping[str, float]

    @property
    def finished(self) -> bool:
        """Whether the schedule is at its end."""
        return self.step >= self.steps


@dataclass(slots=True, eq=False)
class TrainingState:
    """Everything that a step changes: the only mutable object of a run."""

    network: UNet
    ema: State
    optimizer: torch.optim.AdamW
    forward: Forward
    step: int = 0
    unusable: int = 0  # steps in a row whose gradient was not finite
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything a stopped run needs to go on as if it had not been stopped."""

    recipe: Recipe
    spec: UNetSpec
    step: int
    unusable: int
    scores: Mapping[str, float]
    network: State
    ema: State
    optimizer: dict[str, Any]  # as torch's optimizers give it
    torch_rng: Tensor


def fit(
    job: Job, out: Path, *, options: RunOptions,
    progress: Progress = lambda _: None, team: Team = Team(),  # noqa: B008 - frozen
) -> FitResult:  # fmt: skip
    """Train until the schedule ends, the time is over or a signal asks to stop.

    Parameters
    ----------
    team : Team
        Processes that share every batch and call this function at the same time.

    Raises
    ------
    TrainingError
        If the loss is no longer a number, memory or disk is full (the last checkpoint stays
        usable), there is no GPU where one is wanted, or the checkpoint in `out` belongs to
        another network or recipe.
    ConfigError
        If neither the recipe nor the options say how many steps there are.
    """
    recipe, device = job.recipe, choose_device(options.device, team.share)
    steps = schedule_steps(recipe, options)
    _prepare_torch(options.threads)
    with clear_endings(out, less_memory=_less_memory(recipe)):
        out.mkdir(parents=True, exist_ok=True)
        state = start_state(
            job, out, device=device, resume=options.resume, team=team, told=progress
        )
        books = _Books(job, out, steps, options, progress) if team.share.leads else None
        with StopRequest() as stop:
            where = f"{device}{_beside(team)}{_without_bf16(recipe, device)}"
            progress(f"{recipe.name}: step {state.step} of {steps} on {where}")
            _say_if_unvalidated(job.task, progress)
            over = _over(stop, _Clock(options.minutes), team)
            while state.step < steps:
                if not _wait_for_data(job.task, state.step, team=team, over=over, told=progress):
                    if books is not None:
                        books.save(state)
                    break
                loss, norm = train_step(job, state, device=device, steps=steps, team=team)
                stopped = over()
                if books is not None:
                    books.keep(state, (loss, norm), stopped=stopped)
                if stopped:
                    break
        if books is not None:
            books.close()
    return FitResult(state.step, steps, out / CHECKPOINT_NAME, state.scores)


def _beside(team: Team) -> str:
    return f", {team.share.count} processes" if team.share.count > 1 else ""


def _say_if_unvalidated(task: Task, told: Progress) -> None:
    reason = task.no_validation()
    if reason is not None:
        told(f"no validation: {reason}")


def _without_bf16(recipe: Recipe, device: torch.device) -> str:
    wanted = recipe.optimisation.bf16 and not has_bf16(device)
    return ", in float32 (no bfloat16 here)" if wanted else ""


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; a processor that must emulate it takes minutes a step.

    oneDNN, which torch computes with on processors, needs AVX-512 for it (or its like on ARM).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public name for this
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def _over(stop: "StopRequest", clock: "_Clock", team: Team) -> Callable[[], bool]:
    """Question whether the run is to end: all processes of a team get the same answer."""
    return lambda: team.any(stop.requested or clock.over)


class _Books:
    """What a run leaves behind: log, validation scores, checkpoints. One process keeps them."""

    def __init__(
        self, job: Job, out: Path, steps: int, options: RunOptions, progress: Progress
    ) -> None:
        self._job, self._out, self._steps, self._progress = job, out, steps, progress
        self._log = RunLog(out, tensorboard=job.recipe.schedule.tensorboard)
        self._validates = job.task.no_validation() is None
        self._saving = _Clock(options.minutes)

    def keep(self, state: TrainingState, seen: tuple[float, float], *, stopped: bool) -> None:
        """Log a step that was done (loss and gradient norm); validate and save when it is due."""
        recipe, last = self._job.recipe, state.step == self._steps
        self._log.add_step(state.step, seen[0], norm=seen[1])
        if state.step % recipe.schedule.log_every == 0:
            self._progress(self._log.write_steps(self._steps))
        if self._validates and (state.step % recipe.schedule.validate_every == 0 or last):
            self._validate(state)
        if stopped or last or self._saving.checkpoint_due(state.step, recipe):
            self.save(state)

    def _validate(self, state: TrainingState) -> None:
        device = next(state.network.parameters()).device
        state.scores = validate(self._job.task, state, device)
        keep_best(self._out, state, self._job.recipe)
        self._progress(self._log.write_scores(state.step, state.scores))

    def save(self, state: TrainingState) -> None:
        """Write the checkpoint."""
        save_checkpoint(self._out / CHECKPOINT_NAME, state, self._job.recipe)

    def close(self) -> None:
        """Flush the log."""
        self._log.close()


def _wait_for_data(
    task: Task, step: int, *, team: Team, over: Callable[[], bool], told: Progress
) -> bool:
    """Wait until all processes can make a batch; False when the run is to end before."""
    before = None
    while team.any((missing := task.missing(step)) is not None):
        if missing not in (None, before):
            told(f"step {step} waits: {missing} are there")
            before = missing
        if over():
            return False
        time.sleep(WAIT_S)
    return True


def schedule_steps(recipe: Recipe, options: RunOptions) -> int:
    """Length of the schedule.

    Raises
    ------
    ConfigError
        If neither the options nor the recipe say so.
    """
    steps = options.steps or recipe.optimisation.steps
    if steps is None:
        raise ConfigError(f"recipe {recipe.name} has no optimisation.steps; pass --steps")
    return steps


@contextmanager
def clear_endings(out: Path, *, less_memory: str = "take --device cpu") -> Iterator[None]:
    """Turn a full disk, too little memory and a killed helper into a message of what is left.

    Parameters
    ----------
    less_memory : str
        What to do where memory is too little.

    Raises
    ------
    TrainingError
        In their place.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise TrainingError(_no_memory(out, less_memory)) from error
    except BrokenExecutor as error:
        raise TrainingError(
            "a process that makes batches was ended from outside, perhaps for want of memory: ask "
            f"for fewer --makers; {_what_is_left(out)}, and the same command goes on"
        ) from error
    except RuntimeError as error:
        # torch's CPU allocator has no error of its own
        if "allocate memory" not in str(error):
            raise
        raise TrainingError(_no_memory(out, less_memory)) from error
    except OSError as error:
        raise TrainingError(
            f"cannot go on in {out}: {error.strerror or error}{_at(error.filename)}; "
            f"{_what_is_left(out)}: free space or mend it, and the same command goes on"
        ) from error


def _no_memory(out: Path, less_memory: str) -> str:
    return f"out of memory: {less_memory}; {_what_is_left(out)}, and the same --out goes on"


def _less_memory(recipe: Recipe) -> str:
    """Say which settings take less memory; all of them may change when the run goes on."""
    smaller = ""
    if recipe.part == "findings":
        smaller = "take a smaller optimisation.batch_size or findings.shape, or "
    return f"{smaller}set optimisation.checkpointing = true in the recipe, or take --device cpu"


def _at(filename: object) -> str:
    return f" ({filename})" if filename else ""


def _what_is_left(out: Path) -> str:
    path = out / CHECKPOINT_NAME
    return f"{path} holds the last good weights" if path.exists() else "nothing was trained yet"


def train_step(
    job: Job, state: TrainingState, *, device: torch.device, steps: int, team: Team
) -> tuple[float, float]:
    """One step: loss, gradients, weights, moving average. Returns loss and gradient norm.

    Raises
    ------
    TrainingError
        If the loss is not finite, or the gradient is not for many steps in a row; the weights
        have not been touched by then.
    """
    optimisation = job.recipe.optimisation
    batch = job.task.batch(state.step).to(device)
    state.network.train()
    bf16 = optimisation.bf16 and has_bf16(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = state.forward(batch.inputs)
    loss = _loss_of_all(job.task, logits, batch, team)
    state.optimizer.zero_grad(set_to_none=True)
    # each process sees the gradient of its own part, and the mean over them is taken
    (loss * team.share.count).backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), optimisation.clip_norm)
    _check_finite(state, loss.item(), norm.item())
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, optimisation, steps=steps)
    if state.unusable == 0:
        state.optimizer.step()
    state.step += 1
    update_ema(state.ema, state.network, decay=ema_decay(state.step, optimisation.ema_decay))
    return loss.item(), norm.item()


def _loss_of_all(task: Task, logits: tuple[Tensor, ...], batch: Batch, team: Team) -> Tensor:
    """Loss of the whole batch, of which this process has a part."""
    if team.share.count == 1:
        return task.loss(logits, batch)
    targets = tuple(team.whole(target) for target in batch.targets)
    everything = Batch(batch.inputs, targets)
    return task.loss(tuple(team.whole(level.float()) for level in logits), everything)


def _check_finite(state: TrainingState, loss: float, norm: float) -> None:
    # bfloat16 overflows in a gradient once in some hundred steps; the step is left out.
    state.unusable = 0 if math.isfinite(norm) else state.unusable + 1
    if not math.isfinite(loss) or state.unusable > UNUSABLE_STEPS_ALLOWED:
        raise TrainingError(
            f"the loss at step {state.step} is {loss} (gradient norm {norm}, {state.unusable} "
            f"times in a row not finite); {CHECKPOINT_NAME} holds the last good weights: with a "
            "lower optimisation.learning_rate in the recipe the same --out goes on"
        )


def learning_rate(step: int, optimisation: OptimisationConfig, *, steps: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of the peak, or the peak.

    Examples
    --------
    >>> config = OptimisationConfig(steps=100, batch_size=1, learning_rate=1.0, warmup_steps=10)
    >>> [round(learning_rate(step, config, steps=100), 3) for step in (0, 9, 55, 100)]
    [0.1, 1.0, 0.505, 0.01]
    """
    warmup, peak = optimisation.warmup_steps, optimisation.learning_rate
    if step < warmup:
        return peak * (step + 1) / warmup
    if optimisation.decay == "constant":
        return peak
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def ema_decay(step: int, decay: float) -> float:
    """Decay of the moving average, shorter while there is little to average.

    Examples
    --------
    >>> round(ema_decay(1, 0.99), 3), ema_decay(10_000, 0.99)
    (0.182, 0.99)
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema: State, network: nn.Module, *, decay: float) -> None:
    """Move the averaged weights a little towards the network's; counters are copied."""
    for name, value in network.state_dict().items():
        if value.dtype.is_floating_point:
            ema[name].lerp_(value, 1 - decay)
        else:
            ema[name].copy_(value)


def validate(task: Task, state: TrainingState, device: torch.device) -> dict[str, float]:
    """Scores of the averaged weights; the network itself is left as it was."""
    here = {name: value.clone() for name, value in state.network.state_dict().items()}
    state.network.load_state_dict(state.ema)
    state.network.eval()
    with torch.inference_mode():
        scores = dict(task.validate(state.network, device))
    state.network.load_state_dict(here)
    return scores


# ---- checkpoints --------------------------------------------------------------------------


def start_state(
    job: Job, out: Path, *, device: torch.device, resume: bool, team: Team, told: Progress
) -> TrainingState:
    """State to begin with: of the checkpoint if there is one, else fresh.

    Raises
    ------
    TrainingError
        If the checkpoint is damaged or belongs to another network or recipe.
    """
    recipe = job.recipe
    torch.manual_seed(recipe.optimisation.seed)
    network = job.task.build().to(device)
    network.checkpointing = recipe.optimisation.checkpointing
    if device.type == "cuda" and network.spec.dimensions == 3:
        # half the time of a step (docs/training.md)
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if job.initial is not None:
        network.load_state_dict(network.state_dict() | job.initial)  # coarse heads start anew
    forward = team.forward_of(network, device)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=recipe.optimisation.learning_rate,
        weight_decay=recipe.optimisation.weight_decay,
    )
    ema = {name: value.detach().clone() for name, value in network.state_dict().items()}
    state = TrainingState(network, ema, optimizer, forward)
    checkpoint = out / CHECKPOINT_NAME
    found = resume and checkpoint.exists()
    if found:
        changed = load_checkpoint(checkpoint, state, recipe, device=device)
        if changed:
            told(f"goes on with {', '.join(changed)}")
    team.any(found)  # nobody writes before all have looked
    if not found and team.share.leads:
        for name in (BEST_NAME, BEST_RECORD_NAME):
            (out / name).unlink(missing_ok=True)
        save_checkpoint(checkpoint, state, recipe)  # finds a full disk now, not in an hour
    return state


def keep_best(out: Path, state: TrainingState, recipe: Recipe) -> None:
    """Save the averaged weights beside the last ones where they validate better than before.

    Raises
    ------
    TrainingError
        If they cannot be written.
    """
    name = recipe.schedule.best_by
    score = state.scores.get(name, math.nan) if name is not None else math.nan
    if not math.isfinite(score):
        return
    record = out / BEST_RECORD_NAME
    sign = -1 if str(name).endswith("loss") else 1
    if record.exists() and (out / BEST_NAME).exists():
        before = float(json.loads(record.read_text(encoding="utf-8"))["score"])
        if sign * score <= sign * before:
            return
    save_checkpoint(out / BEST_NAME, state, recipe, to_go_on=False)
    text = json.dumps({"step": state.step, "name": name, "score": score})
    record.write_text(text + "\n", encoding="utf-8")


def result_checkpoint(out: Path, recipe: Recipe) -> Path:
    """Checkpoint that is the result of a run: the best one where the recipe asks for it.

    Raises
    ------
    TrainingError
        If the recipe asks for the best by a score that no validation gave.
    """
    if recipe.schedule.best_by is None:
        return out / CHECKPOINT_NAME
    if not (out / BEST_NAME).exists():
        raise TrainingError(
            f"no validation in {out} gave the score {recipe.schedule.best_by!r} that "
            "schedule.best_by names; log.jsonl lists those there are"
        )
    return out / BEST_NAME


def save_checkpoint(
    path: Path, state: TrainingState, recipe: Recipe, *, to_go_on: bool = True
) -> None:
    """Write everything a run needs to go on, under a temporary name until it is whole.

    Parameters
    ----------
    to_go_on : bool
        Without, what the optimizer remembers is left out.

    Raises
    ------
    TrainingError
        If it cannot be written; an earlier file of this name stays.
    """
    content = {
        "format": _FORMAT,
        "recipe": recipe_as_json(recipe),
        "spec": spec_to_json(state.network.spec),
        "step": state.step,
        "unusable": state.unusable,
        "scores": state.scores,
        "network": state.network.state_dict(),
        "ema": state.ema,
        "optimizer": state.optimizer.state_dict() if to_go_on else {},
        "torch_rng": torch.get_rng_state(),
    }
    temporary = path.with_suffix(f".{os.getpid()}.partial")
    try:
        torch.save(content, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
        raise TrainingError(
            f"cannot write {path} at step {state.step}: "
            f"{getattr(error, 'strerror', None) or 'the disk is full or the folder read-only'}; "
            f"{_what_is_left(path.parent)}: free space, and the same command goes on"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(
    path: Path, state: TrainingState, recipe: Recipe, *, device: torch.device
) -> tuple[str, ...]:
    """Fill `state` from a checkpoint; list the settings that are others than it was trained with.

    Raises
    ------
    TrainingError
        If the file is damaged, its network is not the recipe's, or what it was trained with
        differs in more than :mod:`deepmir.training.resuming` allows.
    """
    stored = read_checkpoint(path)
    if stored.spec != recipe.network:
        raise TrainingError(
            f"{path} holds another network than recipe {recipe.name}; give a fresh output "
            "folder, or `--no-resume` to start anew in this one"
        )
    began = f"the run in {path.parent} began with another recipe"
    changed = changed_settings(stored.recipe, recipe, began=began)
    state.network.load_state_dict(stored.network)
    state.ema = {name: value.to(device) for name, value in stored.ema.items()}
    state.optimizer.load_state_dict(stored.optimizer)
    state.step, state.unusable = stored.step, stored.unusable
    state.scores = dict(stored.scores)
    torch.set_rng_state(stored.torch_rng)
    return changed


def read_checkpoint(path: Path) -> Checkpoint:
    """Content of a checkpoint, on the CPU.

    Raises
    ------
    TrainingError
        If it is missing, damaged or of another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        raise TrainingError(f"cannot read the checkpoint {path}: {error}") from error
    fields = set(Checkpoint.__dataclass_fields__) | {"format"}
    if not isinstance(content, dict) or content.keys() != fields or content["format"] != _FORMAT:
        raise TrainingError(f"{path} is not a checkpoint of this version of deepmir")
    del content["format"]
    content["recipe"] = recipe_from_json(content["recipe"])
    content["spec"] = spec_from_json(content["spec"])
    return Checkpoint(**content)


# ---- surroundings --------------------------------------------------------------------------


class StopRequest:
    """While entered, SIGTERM and SIGINT ask for a clean stop after the running step."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Take over the two signals; without effect outside the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(ValueError):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True


class RunLog:
    """JSON lines: one for some steps together, one a validation."""

    def __init__(self, out: Path, *, tensorboard: bool) -> None:
        self._path = out / LOG_NAME
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._step = 0
        self._since = time.monotonic()
        self._board = _open_board(out) if tensorboard else None

    def add_step(self, step: int, loss: float, *, norm: float) -> None:
        """Remember one step."""
        self._step = step
        self._losses.append(loss)
        if math.isfinite(norm):
            self._norms.append(norm)

    def write_steps(self, steps: int) -> str:
        """Write the means of the remembered steps, of `steps`; returns the line for people."""
        count = max(1, len(self._losses))
        seconds = (time.monotonic() - self._since) / count
        loss = sum(self._losses) / count
        norm = sum(self._norms) / max(1, len(self._norms))
        left_out = len(self._losses) - len(self._norms)
        self._write(
            self._step, {"loss": loss, "norm": norm, "left_out": left_out, "step_s": seconds}
        )
        self._losses.clear()
        self._norms.clear()
        self._since = time.monotonic()
        left = time_text(seconds * max(0, steps - self._step))
        return f"step {self._step} of {steps}: loss {loss:.4f}, {seconds:.2f} s a step, {left} left"

    def write_scores(self, step: int, scores: Mapping[str, float]) -> str:
        """Write validation scores; returns the line for people."""
        if not scores:
            return f"step {step}: no finding in the validation samples, so no score is defined"
        self._write(step, {f"validation/{name}": value for name, value in scores.items()})
        return f"step {step}: " + ", ".join(f"{n} {v:.3f}" for n, v in scores.items())

    def close(self) -> None:
        """Flush what is buffered."""
        if self._board is not None:
            self._board.close()

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        line = {"step": step, **{name: round(value, 6) for name, value in values.items()}}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


def time_text(seconds: float) -> str:
    """Return a time as people say it.

    Examples
    --------
    >>> time_text(42), time_text(150), time_text(9000)
    ('42 s', '2 min', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _Board(Protocol):
    def add_scalar(self, tag: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


def _open_board(out: Path) -> _Board:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (slow, optional)

    return SummaryWriter(str(out / "tensorboard"))  # type: ignore[no-any-return]


class _Clock:
    """Time of one run: for how long it goes on and when it saves, never what it learns."""

    def __init__(self, minutes: float | None) -> None:
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._saved = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._end

    def checkpoint_due(self, step: int, recipe: Recipe) -> bool:
        waited = time.monotonic() - self._saved > 60 * recipe.schedule.checkpoint_minutes
        if waited or step % recipe.schedule.checkpoint_every == 0:
            self._saved = time.monotonic()
            return True
        return False


def choose_device(wanted: Literal["auto", "cpu", "gpu"], share: Share = ALONE) -> torch.device:
    """Device to train on; `auto` takes a GPU where torch finds one.

    Parameters
    ----------
    share : Share
        Of several processes each takes a GPU of its own.

    Raises
    ------
    TrainingError
        If a GPU is wanted and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "gpu" and not has_gpu:
        raise TrainingError("device gpu was asked for but torch finds none; use cpu or auto")
    if not has_gpu or wanted == "cpu":
        return torch.device("cpu")
    return torch.device("cuda" if share.count == 1 else f"cuda:{share.rank}")


def batch_makers(options: RunOptions, device: torch.device) -> int:
    """How many processes make batches for a device."""
    if options.makers:
        return options.makers
    return max(1, (os.cpu_count() or 1) // 4) if device.type == "cuda" else 1


def _prepare_torch(threads: int) -> None:
    if threads > 0:
        torch.set_num_threads(threads)
    keep_freed_memory()
