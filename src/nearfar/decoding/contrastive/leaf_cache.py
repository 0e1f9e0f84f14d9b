"""A key-value cache whose next position may hold several candidates at once: leaves on one trunk.

The k candidates of a step are written behind the shared prefix; `commit` then keeps one of them a sequence. The prefix
is neither repeated k times nor copied at each step, as concatenating caches do.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from nearfar.decoding.contrastive.growing import GrowingTensor


class LeafCache(Cache):
    """A transformers `Cache` for decoder-only models whose layers attend to everything or to a sliding window.

    Until `sprout` is called it is a plain growing cache. After it, what a forward pass adds are leaves: visible to that
    pass, kept only through `commit`. `settle` makes it a plain cache again.
    """

    def __init__(self, windows: list[int | None]) -> None:
        super().__init__(layers=[LeafLayer(window) for window in windows])
        self.windows = windows

    @property
    def length(self) -> int:
        """Number of committed positions."""
        return self.layers[0].length

    def sprout(self) -> None:
        for layer in self.layers:
            layer.sprout()

    def settle(self) -> None:
        for layer in self.layers:
            layer.settle()

    def commit(self, choice: Tensor, among: int) -> None:
        """Keep leaf `choice` `[B]` of the `among` leaves that the last forward pass added."""
        numbers = set(choice.tolist())
        for layer in self.layers:
            layer.commit(choice if len(numbers) > 1 else next(iter(numbers)), among)


class LeafLayer(CacheLayerMixin):
    """One layer's keys and values, `[B, heads, length, dim]` each. With a `window`, a leaf is handed the last
    `window - 1` committed positions only: those its own position may see."""

    keys: Tensor | None  # the attributes by which transformers reads a layer
    values: Tensor | None
    is_sliding = False  # everything is stored, so masks are sized as for full attention

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.leafing = False
        self._keys, self._values = GrowingTensor(dim=2), GrowingTensor(dim=2)

    @property
    def length(self) -> int:
        return self._keys.length

    def window_start(self) -> int:
        """The earliest committed position that a leaf may attend to."""
        return 0 if self.window is None else max(0, self.length - self.window + 1)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._keys.write(key_states)
        self._values.write(value_states)
        new = key_states.shape[-2]
        if self.leafing:
            start = self.window_start()
            return self._keys.read(start, extra=new), self._values.read(start, extra=new)
        self._keys.length += new
        self._values.length += new
        self._show()
        return self._keys.read(), self._values.read()

    def commit(self, choice: Tensor | int, among: int) -> None:
        self._keys.keep(choice, among)
        self._values.keep(choice, among)

    def sprout(self) -> None:
        """Until `settle` no views are held: they would keep what the storage was before it grew."""
        self.leafing = True
        self.keys = self.values = None

    def settle(self) -> None:
        self.leafing = False
        self._show()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def _show(self) -> None:
        self.keys, self.values = self._keys.read(), self._values.read()


def attention_windows(config: Any) -> list[int | None] | None:
    """Each layer's sliding window (None: full attention) for a text config, or None where some layer keeps anything
    but keys and values by position: recurrent, convolutional, chunked, shared or compressed states."""
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()) or getattr(
        config, "attention_chunk_size", None
    ):
        return None
    windows: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicLayer:
            windows.append(None)
        elif type(layer) is DynamicSlidingWindowLayer:
            windows.append(layer.sliding_window)
        else:
            return None
    return windows or None
