"""The optimisers of the published heads, as the libraries of their time computed them: Keras 1 on Theano.

    Adagrad    a ← a + g²                       p ← p - rate · g / (√a + ε)               a = 0 at the start, ε = 1e-8
    Adadelta   a ← ρ a + (1 - ρ) g²
               u = g · √(d + ε) / √(a + ε)      p ← p - rate · u
               d ← ρ d + (1 - ρ) u²                                              a = d = 0 at the start, ε = 1e-8

Keras 3 has optimisers of the same names that are others: its Adagrad starts `a` at 0.1 and adds ε = 1e-7 inside the
root. A gradient of 0.01 then moves a weight by 0.03 of the rate where it moved it by the whole rate, and the sum of a
thousand such gradients has only just outweighed the start. One text serves both backends. Import this module after
`backend.use_backend`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


class Adagrad(keras.optimizers.Optimizer):  # type: ignore[misc, unused-ignore]
    """Adagrad as above. accumulator: where the sums of squares start."""

    def __init__(self, learning_rate: float, accumulator: float = 0.0, epsilon: float = 1e-8) -> None:
        super().__init__(learning_rate=learning_rate, name="adagrad_keras1")
        self.accumulator, self.epsilon = accumulator, epsilon

    def build(self, var_list: list[Any]) -> None:
        """One sum a weight."""
        if self.built:
            return
        super().build(var_list)
        start = keras.initializers.Constant(self.accumulator)
        self.sums = self.add_optimizer_variables(var_list, "accumulator", initializer=start)

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Any) -> None:
        """One variable."""
        sums = self.sums[self._get_variable_index(variable)]
        self.assign_add(sums, ops.square(gradient))
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, rate * gradient / (ops.sqrt(sums) + self.epsilon))


class Adadelta(keras.optimizers.Optimizer):  # type: ignore[misc, unused-ignore]
    """Adadelta as above."""

    def __init__(self, learning_rate: float, rho: float = 0.95, epsilon: float = 1e-8) -> None:
        super().__init__(learning_rate=learning_rate, name="adadelta_keras1")
        self.rho, self.epsilon = rho, epsilon

    def build(self, var_list: list[Any]) -> None:
        """Two means a weight."""
        if self.built:
            return
        super().build(var_list)
        self._squares = self.add_optimizer_variables(var_list, "squares")
        self._updates = self.add_optimizer_variables(var_list, "updates")

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Any) -> None:
        """One variable."""
        index = self._get_variable_index(variable)
        squares, updates = self._squares[index], self._updates[index]
        self.assign(squares, self.rho * squares + (1 - self.rho) * ops.square(gradient))
        update = gradient * ops.sqrt(updates + self.epsilon) / ops.sqrt(squares + self.epsilon)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * update)
        self.assign(updates, self.rho * updates + (1 - self.rho) * ops.square(update))
