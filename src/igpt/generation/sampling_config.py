"""The settings of sampling. Imports no torch, so that configurations can be checked quickly."""

from __future__ import annotations

from dataclasses import dataclass

from igpt.errors import IgptError

MASKED_ONLY = ("passes", "choice_temperature")
AUTOREGRESSIVE_ONLY = ("cache_dtype", "compile")
CACHE_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are chosen. Raises :class:`IgptError` for a value out of range.

    For all models:

    - `temperature` divides the logits. 0 takes the most likely token, whatever the other settings are.
    - `top_k` keeps the k most likely tokens; None keeps all.
    - `top_p` keeps the smallest set of most likely tokens whose probabilities sum to at least p (nucleus sampling,
      Holtzman et al. 2019).

    For masked models, which decode in parallel:

    - `passes` is the number of forward passes per image; None is 16.
    - `choice_temperature` scales the noise in the choice of which tokens a pass keeps. 0 keeps the most confident ones,
      a large value random ones; None is 20.

    For autoregressive models:

    - `cache_dtype` is the precision of keys and values, "float32" or "bfloat16"; None is that of the weights.
    - `compile` runs each step as one compiled graph. It pays off for many images on a GPU.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    passes: int | None = None
    choice_temperature: float | None = None
    cache_dtype: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        self._require("temperature", self.temperature >= 0, "at least 0")
        self._require("top_k", self.top_k is None or self.top_k >= 1, "at least 1, or None for all tokens")
        self._require("top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        self._require("passes", self.passes is None or self.passes >= 1, "at least 1, or None for the default")
        self._require(
            "choice_temperature",
            self.choice_temperature is None or self.choice_temperature >= 0,
            "at least 0, or None for the default",
        )
        self._require(
            "cache_dtype",
            self.cache_dtype is None or self.cache_dtype in CACHE_DTYPES,
            f"{' or '.join(CACHE_DTYPES)}, or None for that of the weights",
        )

    def _require(self, name: str, valid: bool, allowed: str) -> None:
        if not valid:
            raise IgptError(f"sampling.{name} is {getattr(self, name)}; it must be {allowed}.")

    def inapplicable(self, causal: bool) -> list[str]:
        """The settings that are set but have no meaning for a causal (autoregressive) or a masked model."""
        names = MASKED_ONLY if causal else AUTOREGRESSIVE_ONLY
        return [name for name in names if getattr(self, name) is not None and getattr(self, name) is not False]

    def check_applicable(self, causal: bool) -> None:
        """Raise :class:`IgptError` if a setting has no meaning for this kind of model."""
        for name in self.inapplicable(causal):
            raise IgptError(f"sampling.{name} is {getattr(self, name)}; {not_applicable(causal)}.")


def not_applicable(causal: bool) -> str:
    """Why a setting is refused, as the end of a sentence."""
    kind, other = ("an autoregressive", "masked") if causal else ("a masked", "autoregressive")
    return f"it applies to {other} models only, and this is {kind} model, so leave it at its default"
