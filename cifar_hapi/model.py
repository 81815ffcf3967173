"""`paddle.Model` with its loops refined; the network, the optimiser and the callbacks need know nothing of it."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle.hapi.callbacks import (
    Callback,
    CallbackList,
    EarlyStopping,
    LRScheduler,
    ModelCheckpoint,
    ProgBarLogger,
)
from paddle.io import DataLoader, Dataset, DistributedBatchSampler

from callbacks import Progress
from callbacks.paddle_model import as_tensors, inputs_and_labels
from cifar_hapi.distributed import ranks
from cifar_hapi.distributed.shares import share
from cifar_hapi.distributed.step import Step, over_all
from cifar_hapi.distributed.sync_batch_norm import together
from cifar_hapi.metrics import counts, set_counts
from cifar_hapi.mixed_precision import GradScaler

Logs = dict[str, Any]


class Model(paddle.Model):
    """`paddle.Model` whose numbers are those of the whole set.

    `prepare`, `fit`, `evaluate`, `predict` and all callbacks work as in Paddle, but for this:

    - `loss` is the mean over all images so far, not the last batch's (that is `batch_loss`, during training);
    - an epoch ends after its evaluation: `on_epoch_end` sees `loss, acc, ..., eval_loss, eval_acc, ...` together;
    - evaluation takes place after every `eval_freq`-th epoch and always after the last one;
    - epochs can begin at `initial_epoch`, and a loader with `set_epoch` is told which one it is;
    - every call of a callback gets a `logs` dictionary of its own;
    - a loss that is a `paddle.nn.Layer` is in training mode in training only, as the network is;
    - callbacks that are context managers are entered for the time of the fit, so that they can clean up after errors.

    Where several processes train together, they are one training: loss, metrics and gradients are those of the whole
    batch, however it is shared out; weights begin as the first process's, and so do running statistics whenever
    weights are evaluated, and at the end. A `Dataset` is shared out by batches of `batch_size` images over all
    processes; an iterable yields each process's own share of a batch, and a loader for evaluation the whole set.
    `fit` and `evaluate` must be called by all of them; the loss must be a mean over its batch, and what a metric
    counts must add up.
    """

    optimizer: Any = None
    loss: Any = None
    metrics: Sequence[Any] = ()
    scaler: Any = None
    _counting_on = False
    _images = 0  # of the last batch, of all processes
    _callbacks: Sequence[Callback] = ()
    _after_training: dict[str, Any] | None = None
    ending = 0  # by which signal all processes have agreed to end; see callbacks/processes.py
    share = 1.0  # of the last batch, that this process has seen

    def __init__(self, network: paddle.nn.Layer, inputs: Any = None, labels: Any = None) -> None:
        ranks.join()
        with ranks.unseen_by_paddle():
            super().__init__(network, inputs, labels)

    def prepare(
        self,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        amp_configs: Any = None,
    ) -> None:
        """As `paddle.Model.prepare`; what is given can be read back as `optimizer`, `loss` and `metrics`.

        With `amp_configs`, `scaler` is the `GradScaler` that training will use; else it is None.
        """
        super().prepare(optimizer, loss, metrics, amp_configs)
        self.optimizer, self.loss = optimizer, loss
        self.metrics = _as_list(metrics or [])
        self.scaler = self._use_scaler()
        self._parameters = self.network.parameters()
        self._mean = _MeanLoss()

    def fit(
        self,
        train_data: Any = None,
        eval_data: Any = None,
        batch_size: int | Sequence[int] = 1,
        epochs: int = 1,
        eval_freq: int = 1,
        log_freq: int = 10,
        save_dir: str | None = None,
        save_freq: int = 1,
        verbose: int = 2,
        drop_last: bool = False,
        shuffle: bool = True,
        num_workers: int = 0,
        callbacks: Callback | Sequence[Callback] | None = None,
        accumulate_grad_batches: int = 1,
        num_iters: int | None = None,
        initial_epoch: int = 0,
        initial_step: int = 0,
    ) -> None:
        """Train from batch `initial_step` of epoch `initial_epoch` (both counted from 0) until `epochs` are complete.

        Arguments as in `paddle.Model.fit`. Data is a `paddle.io.Dataset` or any iterable of batches; `num_iters` ends
        training after that many steps; `verbose`: 0 prints nothing, 1 and 2 show `callbacks.Progress`, which has a
        pace of its own (`log_freq` is taken and has no use).
        """
        if train_data is None:
            raise ValueError("fit() needs train_data")
        train_size, eval_size = batch_size if isinstance(batch_size, Sequence) else (batch_size, batch_size)
        train_loader = _loader(train_data, train_size, num_workers, shuffle, drop_last, shared=True)
        eval_loader = None if eval_data is None else _loader(eval_data, eval_size, num_workers)
        steps = _steps(train_loader)
        if steps == 0:
            raise ValueError("fit(): train_data has no batch; is it empty, or smaller than a batch and drop_last set?")
        if num_iters is not None and steps:
            epochs = initial_epoch + math.ceil((initial_step + num_iters) / steps)
        every = _with_defaults(callbacks, verbose, save_dir, save_freq)
        self.stop_training, self.ending = False, 0
        ranks.copy_from_the_first(self.network.state_dict().values())
        self._callbacks = every
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, self, "_callbacks", ())
            for callback in every:
                if isinstance(callback, contextlib.AbstractContextManager):
                    stack.enter_context(callback)
            first = {"initial_epoch": initial_epoch, "initial_step": initial_step}
            calls = self._callback_list(every, epochs=epochs, steps=steps, verbose=verbose, **first)
            pace = _Pace(accumulate_grad_batches, num_iters, initial_step)
            with _interrupts_told():
                self._fit_epochs((train_loader, eval_loader), calls, range(initial_epoch, epochs), eval_freq, pace)
        ranks.copy_from_the_first(_not_trained(self.network))

    def train_batch(self, inputs: Any, labels: Any = None, update: bool = True) -> Any:
        """As `paddle.Model.train_batch`: losses, and with metrics (losses, metrics); without `update` gradients add up.

        Paddle's walks through all layers twice a step, for `train()` and to clear gradients: 0.7 ms of ResNet-20's 95.
        Here a network in training mode is left alone, so that layers of it that a callback has set to `eval()` stay so.
        """
        if ranks.count() > 1:
            step = self._train_batch_together(_as_list(inputs), [] if labels is None else _as_list(labels), update)
            values = [np.asarray(loss, np.float32) for loss in step.losses]
            return (values, [metric.accumulate() for metric in self.metrics]) if self.metrics else values
        first = self._input_info is None  # private: Paddle notes the shapes of the first batch, for `save`
        if first or self.scaler is not None:
            return super().train_batch(inputs, labels, update)
        if not self.network.training:
            self.network.train()
        outputs = _as_list(self.network(*as_tensors(_as_list(inputs))))
        targets = as_tensors([] if labels is None else _as_list(labels))
        losses = _as_list(self.loss(*outputs, *targets))
        paddle.add_n(losses).backward()
        if update:
            self.optimizer.step()
            for parameter in self._parameters:
                parameter.clear_gradient()
        values = [loss.numpy() for loss in losses]
        return (values, [_updated(metric, outputs, targets) for metric in self.metrics]) if self.metrics else values

    def _train_batch_together(self, inputs: list[Any], labels: list[Any], update: bool) -> Step:
        """A step of several processes with their shares of a batch: loss and gradients are those of the whole batch."""
        if not self.network.training:
            self.network.train()
        adapter, given, targets = self._adapter, as_tensors(inputs), as_tensors(labels)  # private: what it knows of AMP
        if self._input_info is None:  # private, as what follows: Paddle notes the shapes of the first batch, for `save`
            adapter._input_info = [list(each.shape) for each in given], [each.dtype for each in given]
            self._update_inputs()
        casts = {"enable": adapter._amp_level != "O0", "level": adapter._amp_level, **adapter._amp_custom_lists}
        with paddle.amp.auto_cast(**casts), together():
            outputs = _as_list(self.network(*given))
        losses = _as_list(self.loss(*outputs, *targets))
        before = [counts(metric) for metric in self.metrics]
        for metric in self.metrics:
            metric.reset()
            _updated(metric, outputs, targets)
        images = len(inputs[0])
        step = over_all(images, [float(loss) for loss in losses], self.metrics, before, self._told())
        self._images, self.ending, self.share = step.images, step.ending, images / step.images
        self._descend(paddle.add_n(losses) * self.share, update)
        return step

    def _descend(self, loss: paddle.Tensor, update: bool) -> None:
        """Backwards from this process's share of the loss, and with `update` by the gradients of all."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()
        if not update:
            return
        ranks.add_up([each.grad for each in self._parameters if each.grad is not None])
        self.optimizer.step() if self.scaler is None else self.scaler.minimize(self.optimizer, scaled)
        for parameter in self._parameters:
            parameter.clear_gradient()

    def _told(self) -> int:
        """By which signal a callback has this process told to end, or 0."""
        return max((getattr(callback, "told_to_end", 0) for callback in self._callbacks), default=0)

    def evaluate(
        self,
        eval_data: Any,
        batch_size: int = 1,
        log_freq: int = 10,
        verbose: int = 2,
        num_workers: int = 0,
        callbacks: Callback | Sequence[Callback] | None = None,
        num_iters: int | None = None,
    ) -> Logs:
        """The mean loss and the metrics over all of `eval_data`, by name; with `num_iters`, over its first batches."""
        loader = _loader(eval_data, batch_size, num_workers)
        calls = self._callback_list(_with_defaults(callbacks, verbose=0), verbose=verbose)
        return self._evaluate(loader, calls, num_iters)

    def predict(
        self,
        test_data: Any,
        batch_size: int = 1,
        num_workers: int = 0,
        stack_outputs: bool = False,
        verbose: int = 1,
        callbacks: Callback | Sequence[Callback] | None = None,
    ) -> list[Any]:
        """The network's outputs for all of `test_data`: each a tuple of batches, or one array if `stack_outputs`."""
        loader = _loader(test_data, batch_size, num_workers)
        calls = self._callback_list(_with_defaults(callbacks, verbose=0), verbose=verbose)
        calls.on_begin("predict", {"steps": _steps(loader)})
        batches = []
        for step, batch in enumerate(loader):
            calls.on_batch_begin("predict", step, {})
            inputs, _ = inputs_and_labels(self, batch)
            batches.append(self.predict_batch(inputs))
            calls.on_batch_end("predict", step, {"step": step, "batch_size": len(inputs[0])})
        calls.on_end("predict", {"steps": len(batches)})
        outputs = list(zip(*batches, strict=True))
        return [np.concatenate(parts) for parts in outputs] if stack_outputs else outputs

    def _fit_epochs(
        self, loaders: tuple[Any, Any], calls: CallbackList, epochs: range, eval_freq: int, pace: _Pace
    ) -> None:
        (train_loader, eval_loader), logs = loaders, {}
        calls.on_begin("train", {})
        for epoch in epochs:
            calls.on_epoch_begin(epoch, {})
            first_step, pace.first_step = pace.first_step, 0
            logs = self._train_epoch(
                _begun(train_loader, epoch, first_step), first_step, _steps(train_loader), calls, pace
            )
            last = epoch == epochs[-1] or self.stop_training
            if eval_loader is not None and (last or (epoch + 1) % eval_freq == 0):
                logs |= {f"eval_{name}": value for name, value in self._evaluate(eval_loader, calls).items()}
            calls.on_epoch_end(epoch, dict(logs))
            if self.stop_training:
                break
        calls.on_end("train", dict(logs))

    def _train_epoch(
        self, batches: Iterable[Any], first_step: int, steps: int | None, calls: CallbackList, pace: _Pace
    ) -> Logs:
        self._begin_metrics(training=True)
        for step, batch in enumerate(batches, first_step):
            calls.on_batch_begin("train", step, {})
            inputs, labels = inputs_and_labels(self, batch)
            result = self.train_batch(inputs, labels, update=pace.updates(step, steps))
            size = len(inputs[0]) if ranks.count() == 1 else self._images
            self._count_loss(result, size)
            loss = {"batch_loss": self._mean.last, "step": step, "batch_size": size}
            calls.on_batch_end("train", step, {**self._metrics_now(), **loss})
            if pace.ends():
                self.stop_training = True
                break
        self._after_training = self.running_metrics()
        return self._metrics_now()

    def _evaluate(self, loader: Any, calls: CallbackList, num_iters: int | None = None) -> Logs:
        pace = _Pace(num_iters=num_iters)
        calls.on_begin("eval", {"steps": _steps(loader, num_iters), "metrics": self._metric_names()})
        self._begin_metrics(training=False)
        ranks.copy_from_the_first(_not_trained(self.network))  # after callbacks that have put averages into the network
        for step, batch in enumerate(loader if ranks.count() == 1 else self._answered_together(loader)):
            calls.on_batch_begin("eval", step, {})
            if isinstance(batch, _Answered):
                size, result = len(batch.labels[0]), self._judged(batch)
            else:
                inputs, labels = inputs_and_labels(self, batch)
                size, result = len(inputs[0]), self.eval_batch(inputs, labels)
            self._count_loss(result, size)
            calls.on_batch_end("eval", step, {**self._metrics_now(), "step": step, "batch_size": size})
            if pace.ends():
                break
        logs = self._metrics_now()
        calls.on_end("eval", dict(logs))
        return logs

    def _answered_together(self, loader: Any) -> Iterator[_Answered]:
        """What the network says of every batch, in order; each process has asked it about one of `ranks.count()`."""
        count, rank = ranks.count(), ranks.rank()
        every = getattr(loader, "every", None)
        own = iter(every(count, rank) if every else itertools.islice(loader, rank, None, count))
        while True:
            batch = next(own, None)
            answered = {} if batch is None else self._answered(batch).to_arrays()
            found = ranks.gathered_arrays({"ending": np.array(self._told()), **answered})
            self.ending = max(int(each.pop("ending")) for each in found)
            yield from (_Answered.from_arrays(each) for each in found if each)
            if not found[-1]:
                return

    def _answered(self, batch: Any) -> _Answered:
        inputs, labels = inputs_and_labels(self, batch)
        return _Answered(self.predict_batch(inputs), [np.asarray(label) for label in labels])

    def _judged(self, batch: _Answered) -> Any:
        """What `eval_batch` gives, for outputs that are there already."""
        outputs, targets = as_tensors(batch.outputs), as_tensors(batch.labels)
        with paddle.no_grad():
            losses = [loss.numpy() for loss in _as_list(self.loss(*outputs, *targets))] if self.loss else []
        metrics = [_updated(metric, outputs, targets) for metric in self.metrics]
        return (losses, metrics) if losses and metrics else losses or metrics

    def running_metrics(self) -> dict[str, Any]:
        """The mean loss and the metrics of the epoch's training so far, as JSON: what `set_running_metrics` takes."""
        if self._after_training is not None:  # an evaluation counts with the same metrics now
            return self._after_training
        return {"loss": self._mean.state_dict(), "metrics": [counts(metric) for metric in self.metrics]}

    def set_running_metrics(self, state: dict[str, Any]) -> None:
        """Make the next epoch's training count on from `state`. Raises ValueError for a state of other metrics."""
        if not isinstance(state.get("metrics"), list) or len(state["metrics"]) != len(self.metrics):
            raise ValueError("the running metrics are of other metrics")
        self._begin_metrics(training=True)
        self._mean.set_state_dict(state.get("loss"))
        for metric, values in zip(self.metrics, state["metrics"], strict=True):
            set_counts(metric, values)
        self._counting_on = True

    def _begin_metrics(self, training: bool) -> None:
        if training and self._counting_on:
            self._counting_on = False
        else:
            self._mean = _MeanLoss()
            for metric in self.metrics:
                metric.reset()
        if training:
            self._after_training = None
        if isinstance(self.loss, paddle.nn.Layer):
            self.loss.train() if training else self.loss.eval()

    def _count_loss(self, result: Any, size: int) -> None:
        """Add the loss of a batch whose `train_batch` or `eval_batch` gave `result`."""
        if self.loss:
            losses = result[0] if self.metrics else result
            self._mean.add(float(np.sum([np.sum(loss) for loss in losses])), size)

    def _metrics_now(self) -> Logs:
        """The mean loss and the accumulated metrics."""
        logs: Logs = {"loss": self._mean.value} if self.loss and self._mean.value is not None else {}
        for metric in self.metrics:
            logs.update(zip(_as_list(metric.name()), _as_list(metric.accumulate()), strict=True))
        return logs

    def _use_scaler(self) -> Any:
        """The scaler that Paddle would make at the first step, made now so that its state can be loaded before."""
        adapter = self._adapter  # private: the adapter, what it read in amp_configs, and where it keeps the scaler
        self._scaler = None if adapter._amp_level == "O0" else GradScaler(**adapter._amp_configs)
        return self._scaler

    def _metric_names(self) -> list[str]:
        return (["loss"] if self.loss else []) + [name for metric in self.metrics for name in _as_list(metric.name())]

    def _callback_list(self, callbacks: list[Callback], **params: Any) -> CallbackList:
        calls = CallbackList(callbacks)
        calls.set_model(self)
        about = {"metrics": self._metric_names(), "callbacks": callbacks, "evaluates_within_epoch": True}
        calls.set_params({**about, **params})
        return calls


@dataclass(frozen=True)
class _Answered:
    """What the network says of a batch, and what is right: arrays, images first."""

    outputs: list[np.ndarray]
    labels: list[np.ndarray]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """By name, in order."""
        both = (("output", self.outputs), ("label", self.labels))
        return {f"{kind} {place}": each for kind, arrays in both for place, each in enumerate(arrays)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> _Answered:
        """What has been `to_arrays`."""
        outputs, labels = ([each for name, each in arrays.items() if name.startswith(k)] for k in ("output", "label"))
        return _Answered(outputs, labels)


class _SharedSampler(DistributedBatchSampler):
    """This process's share of every batch; the batches are those that a single process would see."""

    def __init__(self, data: Dataset, **options: Any) -> None:
        super().__init__(data, num_replicas=1, rank=0, **options)

    def __iter__(self) -> Iterator[list[int]]:
        for places in super().__iter__():
            yield places[share(len(places), ranks.rank(), ranks.count())]


class _MeanLoss:
    """The mean over images of losses that are means over batches; `value` is None before the first."""

    def __init__(self) -> None:
        self.last, self._sum, self._count = 0.0, 0.0, 0

    def add(self, loss: float, size: int) -> None:
        self.last = loss
        self._sum += loss * size
        self._count += size

    @property
    def value(self) -> float | None:
        return self._sum / self._count if self._count else None

    def state_dict(self) -> list[float]:
        return [self.last, self._sum, self._count]

    def set_state_dict(self, state: Any) -> None:
        numbers = isinstance(state, list) and all(isinstance(each, int | float) for each in state)
        if not numbers or len(state) != 3 or not isinstance(state[2], int):
            raise ValueError(f"the running loss is {state!r}: not three numbers")
        self.last, self._sum, self._count = float(state[0]), float(state[1]), int(state[2])


class _Pace:
    """At which step training begins, when gradients become an update, and when the last step is taken."""

    def __init__(self, accumulate: int = 1, num_iters: int | None = None, first_step: int = 0):
        if num_iters is not None and num_iters < 1:
            raise ValueError(f"num_iters = {num_iters}: must be at least 1")
        self._accumulate, self._left, self.first_step = accumulate, num_iters, first_step

    def updates(self, step: int, steps: int | None) -> bool:
        """Whether this step of an epoch of `steps` ends in an update: every n-th does, and the last one always."""
        return (step + 1) % self._accumulate == 0 or step + 1 == steps or self._left == 1

    def ends(self) -> bool:
        """Count one step; whether it was the last."""
        if self._left is not None:
            self._left -= 1
        return self._left == 0


@contextlib.contextmanager
def _interrupts_told() -> Iterator[None]:
    """Within it Ctrl-C is a KeyboardInterrupt, of which Paddle makes an OSError in a backward pass on the engine."""
    try:
        yield
    except OSError as error:
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from error
        raise


def _loader(
    data: Any, batch_size: int, num_workers: int, shuffle: bool = False, drop_last: bool = False, shared: bool = False
) -> Any:
    if not isinstance(data, Dataset):
        return data
    options = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last}
    sampler = (
        _SharedSampler(data, **options) if shared else DistributedBatchSampler(data, num_replicas=1, rank=0, **options)
    )
    return DataLoader(data, batch_sampler=sampler, num_workers=num_workers, return_list=True)


def _begun(loader: Any, epoch: int, first_step: int) -> Iterable[Any]:
    """The batches of an epoch from `first_step` on, the loader told which epoch it is where it asks for that."""
    for each in (loader, getattr(loader, "batch_sampler", None)):
        set_epoch = getattr(each, "set_epoch", None)
        if set_epoch is not None:
            if "first_step" in inspect.signature(set_epoch).parameters:
                set_epoch(epoch, first_step)
                return iter(loader)
            set_epoch(epoch)
    return itertools.islice(loader, first_step, None)


def _steps(loader: Any, num_iters: int | None = None) -> int | None:
    try:
        steps = len(loader)
    except TypeError:  # an iterable without len()
        return num_iters
    return steps if num_iters is None else min(steps, num_iters)


def _with_defaults(
    callbacks: Callback | Sequence[Callback] | None,
    verbose: int,
    save_dir: str | None = None,
    save_freq: int = 1,
) -> list[Callback]:
    every = list(_as_list(callbacks or []))
    if verbose and not any(isinstance(callback, Progress | ProgBarLogger) for callback in every):
        every.insert(0, Progress())
    if save_dir is not None and not any(isinstance(callback, ModelCheckpoint) for callback in every):
        every.append(ModelCheckpoint(save_freq, save_dir))
    for callback in every:
        if isinstance(callback, EarlyStopping):
            callback.save_dir = save_dir
    if not any(isinstance(callback, LRScheduler) for callback in every):
        every.insert(0, LRScheduler())
    return _in_order(every)


def _in_order(callbacks: list[Callback]) -> list[Callback]:
    """One that saves the states of others (`acts_last`) after all that have a state; else as they were."""
    places, saver_seen = [], False
    for callback in callbacks:
        saves = getattr(callback, "acts_last", False)
        saver_seen = saver_seen or saves
        places.append(1 if saves else 2 if saver_seen and not hasattr(callback, "state_dict") else 0)
    return [callback for _, callback in sorted(zip(places, callbacks, strict=True), key=lambda pair: pair[0])]


def _not_trained(network: paddle.nn.Layer) -> Iterator[paddle.Tensor]:
    """Running statistics, which Paddle has among the parameters, and buffers."""
    return (tensor for tensor in network.state_dict().values() if tensor.stop_gradient)


def _updated(metric: Any, outputs: list[paddle.Tensor], targets: list[paddle.Tensor]) -> Any:
    return metric.update(*(np.asarray(part) for part in _as_list(metric.compute(*outputs, *targets))))


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
