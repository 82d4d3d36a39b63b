"""Training and evaluation of a graph whose layers were joined, layer by layer."""

from collections.abc import Iterable, Mapping
from typing import Any

from matconvnet.executor import Record
from matconvnet.fast.precision import View
from matconvnet.fast.rewrite import Rewritten, Step, fuse
from matconvnet.graph import Graph
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network


class Joined(View):
    """Evaluates a network by fused layers, where nobody asks to see every value.

    An evaluation that does not conserve memory, or that counts or names layers (`depth`,
    `recompute`), is that of the network itself. In a record, a fused layer has the name of its last
    part.
    """

    def __init__(self, net: Network):
        if isinstance(net, View):
            raise TypeError(f"net is a {type(net).__name__}; wanted the network that it shows")
        super().__init__(net)
        self._origin: Graph | None = None
        self._known: dict[frozenset[str], Rewritten] = {}
        self._now: Rewritten | None = None

    @property
    def graph(self) -> Graph:
        """The structure; during an evaluation, that of fused layers."""
        return self.net.graph if self._now is None else self._now.graph

    @property
    def report(self) -> tuple[Step, ...]:
        """What was done for the newest graph of fused layers; empty, if there is none."""
        return next(reversed(self._known.values())).report if self._known else ()

    def eval(
        self,
        inputs: Mapping[str, Any],
        ders: Mapping[str, Any] | None = None,
        *,
        conserve_memory: bool = False,
        precious: Iterable[str] = (),
        depth: int | None = None,
        recompute: Any = False,
        **options: Any,
    ) -> Record:
        """See `Network.eval`."""
        precious = frozenset(precious)
        options |= {"conserve_memory": conserve_memory, "precious": precious}
        if not conserve_memory or depth is not None or recompute is not False:
            return self.net.eval(inputs, ders, **options, depth=depth, recompute=recompute)
        keep = frozenset((*precious, *self.net.precious, *inputs, *(ders or ())))
        self._now = self._rewritten(keep)
        try:
            made = super().eval(inputs, ders, **options)
        finally:
            self._now = None
        if isinstance(self.net, DagNN):
            self.net.record = made
        return made

    def _rewritten(self, keep: frozenset[str]) -> Rewritten:
        """The graph that keeps some variables; it is made once for each set of them."""
        if self._origin is not self.net.graph:
            self._origin, self._known = self.net.graph, {}
        if keep not in self._known:
            self._known[keep] = fuse(self.net.graph, keep=keep)
        return self._known[keep]
