"""One optimisation step, compiled where the backend can: the only file that knows how each backend differentiates.

TensorFlow traces the step into a graph once; PyTorch runs it eagerly (plain heads:
`densechain.py`). Keras' own `fit` is not used because a step here
draws its own bags and because its bookkeeping costs more than these small networks do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensor = Any
LossFunction = Callable[..., Tensor]


def value_and_gradients(
    loss: LossFunction, inputs: Sequence[NDArray[Any]], dtype: str = "float64"
) -> tuple[float, list[NDArray[Any]]]:
    """Value of `loss(*inputs)` and its gradient to each input, as NumPy; used to hold the losses to their spec."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(x, dtype=dtype) for x in inputs]
        with tf.GradientTape() as tape:
            for t in tensors:
                tape.watch(t)
            value = loss(*tensors)
        grads = tape.gradient(value, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return float(value), [tf.convert_to_tensor(g).numpy() for g in grads]
    import torch

    leaves = [torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True) for x in inputs]
    result = loss(*leaves)
    found = torch.autograd.grad(result, leaves, allow_unused=True)
    zero_filled = [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
    return float(result.detach()), [g.numpy() for g in zero_filled]


def make_step(
    model: Any, optimizer: Any, objective: Callable[[Tensor], Tensor], rows: NDArray[np.float32], seed: int = 0
) -> Callable[[NDArray[np.int64]], float]:
    """A function `step(videos) -> loss` that draws the gradient of `objective(model(rows[videos]))` and applies it.

    rows: float32 (V, T, D) of all videos; they go to the backend once.  videos: int64 (B,), the same number at every
    call.  seed: of the dropout of plain heads on PyTorch; everything else draws from what `seed_everything` seeded.
    The loss returned is that before the step.
    """
    import keras

    variables = model.trainable_variables
    optimizer.build(variables)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        pool = tf.constant(rows)

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator, unused-ignore]
        def traced(videos: Tensor) -> Tensor:
            with tf.GradientTape() as tape:
                value = objective(model(tf.gather(pool, videos), training=True))
            optimizer.apply(tape.gradient(value, variables), variables)
            return value

        return lambda videos: float(traced(tf.convert_to_tensor(videos)))
    import torch

    from trainer.mil.dense_layers import chain_of
    from trainer.mil.dense_layers import value_and_gradients as by_hand

    parameters, stored = [v.value for v in variables], torch.as_tensor(rows)
    chain, rng = chain_of(model), np.random.Generator(np.random.SFC64(seed))
    apply = _applier(optimizer, variables)

    def eager(videos: NDArray[np.int64]) -> float:
        features = stored.index_select(0, torch.as_tensor(videos))
        if chain is not None:
            value, gradients = by_hand(chain, objective, features, rng)
        else:
            value = objective(model(features, training=True))
            gradients = list(torch.autograd.grad(value, parameters))
        apply(gradients)
        return float(value.detach())

    return eager


def _applier(optimizer: Any, variables: Sequence[Any]) -> Callable[[list[Tensor]], None]:
    """Applies gradients on PyTorch. Its own Adagrad follows the rule of Keras 1 and is several times as fast."""
    import torch

    from trainer.mil.optimizers import Adagrad

    if isinstance(optimizer, Adagrad):
        parameters = [v.value for v in variables]
        native = torch.optim.Adagrad(
            parameters, float(optimizer.learning_rate), 0.0, 0.0, optimizer.accumulator, optimizer.epsilon, foreach=True
        )

        for parameter, sums in zip(parameters, optimizer.sums, strict=True):
            native.state[parameter]["sum"] = sums.value  # one memory: what is kept of the optimiser is always current

        def apply(gradients: list[Tensor]) -> None:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            native.step()

        return apply

    def apply_keras(gradients: list[Tensor]) -> None:
        with torch.no_grad():
            optimizer.apply(gradients, variables)

    return apply_keras


def predict(model: Any, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """`model(features)` without dropout, as NumPy. features: (B, T, D)."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            out: NDArray[np.float32] = model(torch.as_tensor(features), training=False).numpy()
            return out
    traced: NDArray[np.float32] = model(features, training=False).numpy()
    return traced
