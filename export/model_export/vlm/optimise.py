"""How weights are changed: matrices inside the layers by whole turns, everything else by AdamW.

Source of the first: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024: the momentum of a
matrix is replaced by the nearest one whose singular values are about 1.

AdamW is written out: torch's own loads the compiler with its first step, for many seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95
_WEIGHT_DECAY = 0.02
_BETAS, _TINY = (0.9, 0.98), 1e-8
_NOT_INSIDE = ("embed", "probe", "follower")


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about the nearest matrix with orthonormal rows or columns (Newton-Schulz iterations)."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    # In half the precision, which is enough for a direction, and half the time.
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = (x.T if tall else x).float()
    return result


class Optimiser:
    """Changes the parameters of one or more modules.

    Attributes:
        parameters: All of them.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], rate: float, matrix_rate: float = 0.0
    ) -> None:
        """Sort the parameters.

        Args:
            named: Parameters by name.
            rate: Highest learning rate of AdamW.
            matrix_rate: Highest learning rate of the matrices: length of a step, for a square one, as a share of an
                orthonormal matrix; 0: AdamW changes them too.
        """
        both = list(named)
        self.parameters = [parameter for _, parameter in both]
        inside = [
            matrix_rate > 0 and p.dim() == 2 and not any(word in name for word in _NOT_INSIDE)
            for name, p in both
        ]
        self._matrices = [p for p, is_inside in zip(self.parameters, inside, strict=True) if is_inside]
        self._rest = [p for p, is_inside in zip(self.parameters, inside, strict=True) if not is_inside]
        self._momentum = [torch.zeros_like(p) for p in self._matrices]
        self._mean = [torch.zeros_like(p) for p in self._rest]
        self._square = [torch.zeros_like(p) for p in self._rest]
        self._steps = 0
        self._rate, self._matrix_rate = rate, matrix_rate

    def step(self, loss: Tensor, share: float) -> None:
        """Change the parameters so that the loss falls.

        Args:
            loss: To lower.
            share: Of the highest learning rates.
        """
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._steps += 1
        self._adamw(self._rate * share)
        self._turn(self._matrix_rate * share)

    @torch.no_grad()
    def _adamw(self, rate: float) -> None:
        """Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019."""
        first, second = _BETAS
        bias, square_bias = 1 - first**self._steps, 1 - second**self._steps
        for parameter, mean, square in zip(self._rest, self._mean, self._square, strict=True):
            gradient = parameter.grad
            if gradient is None:
                continue
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            size = (square / square_bias).sqrt_().add_(_TINY)
            parameter.mul_(1 - rate * _WEIGHT_DECAY).addcdiv_(mean, size, value=-rate / bias)

    @torch.no_grad()
    def _turn(self, rate: float) -> None:
        for parameter, momentum in zip(self._matrices, self._momentum, strict=True):
            if parameter.grad is None:
                continue
            momentum.lerp_(parameter.grad, 1 - _MOMENTUM)
            turned = orthogonal(parameter.grad.lerp(momentum, _MOMENTUM))
            scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
            parameter.mul_(1 - rate * _WEIGHT_DECAY).add_(turned, alpha=-rate * scale)

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes."""
        return {
            "steps": self._steps,
            "momentum": self._momentum,
            "mean": self._mean,
            "square": self._square,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._steps = state["steps"]
        self._momentum = [one.clone() for one in state["momentum"]]
        self._mean = [one.clone() for one in state["mean"]]
        self._square = [one.clone() for one in state["square"]]
