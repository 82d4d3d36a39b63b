"""Describes the values of a 7.3 file; of their data it reads only names, shapes and references.

Runs in the worker process only, see `worker73`.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5r, h5s, h5t  # pyright: ignore

from matconvnet.interop.mat import guards73 as guards
from matconvnet.interop.mat.forms import MAX_DEPTH
from matconvnet.interop.mat.guards73 import DAMAGED, FOREIGN, HOSTILE, LINKS, Budget, refuse
from matconvnet.interop.mat.protocol73 import CHARS, NUMBERS, OBJECTS, VALUE, whole_chunks

NOT_VARIABLES = ("#refs#", "#subsystem#")
MAX_DIMS = 32
MAX_FIELDS = 1 << 16

Node = dict[str, Any]


class Data(NamedTuple):
    """An array whose data are to be read: where it stands, its reference, its node."""

    place: str
    reference: Any
    node: Node


class Walk:
    """Goes through the values of one file, once.

    `pulse` is called before each value, and later with the number of bytes that will be read: it
    is given time for them, since libhdf5 can lose its way in a damaged file for ever.
    """

    def __init__(self, path: str, budget: int, pulse: Callable[[int], object]):
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_file_locking(False, True)
        self.pulse = pulse
        self.place: list[str] = []
        self.file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY, access)
        self.budget = Budget(budget, os.path.getsize(path))
        self.seen: set[int] = set()  # addresses of the objects that hold others
        self.arrays: list[Data] = []

    def open(self, reference: Any) -> Any:
        """The object behind a reference."""
        found = h5r.dereference(reference, self.file)
        if found is None:
            refuse("a reference to nothing", "a reference to an object", DAMAGED)
        return found

    def variables(self) -> Node:
        """The node of a struct that holds all variables."""
        root = h5o.open(self.file, b"/")
        self.seen.add(h5o.get_info(root).addr)
        names = [name for name in self.members(root) if name not in NOT_VARIABLES]
        return self.scalar_struct(root, names)

    def members(self, group: Any) -> list[str]:
        """The names of the members of a group, which all must be its own."""
        names = []
        most = self.budget.left // VALUE + 1

        def take(name: bytes, info: Any) -> str | None:
            names.append(name.decode())
            if info.type != h5l.TYPE_HARD:
                return LINKS.get(info.type, "unknown")
            return "" if len(names) < most else None

        # An error must not pass through libhdf5, so what `take` returns ends the iteration.
        kind, _ = group.links.iterate(take, info=True)
        if kind:
            refuse(f"{names[-1]!r}, a link of the {kind} kind", "hard links", HOSTILE)
        self.budget.charge(VALUE * len(names))
        return names

    def scalar_struct(self, group: Any, names: list[str]) -> Node:
        """A struct whose fields are members of a group."""
        columns = []
        for name in names:
            code = name.encode()
            found = h5o.open(group, code)
            make = lambda code=code: h5r.create(group, code, h5r.OBJECT)  # noqa: E731
            columns.append([self.value(f"/{name}", found, make)])
        return {"is": "struct", "shape": [1, 1], "fields": names, "columns": columns}

    def elements(self, refs: np.ndarray, form: str) -> list[Node]:
        """The nodes of all elements of a cell array, or of a field of a struct array."""
        return [
            self.value(form.format(i), self.open(ref), lambda ref=ref: ref)
            for i, ref in enumerate(refs.ravel(), 1)
        ]

    def value(self, name: str, found: Any, reference: Callable[[], Any]) -> Node:
        """The node of one object; `reference` makes what opens it again."""
        self.pulse(0)
        self.place.append(name)
        depth = len(self.place) - 1
        if depth > MAX_DEPTH:
            refuse(f"a value nested {depth} deep", f"at most {MAX_DEPTH}", HOSTILE)
        decode = guards.integer(found, "MATLAB_object_decode") or 0
        if decode and decode not in OBJECTS:
            refuse(f"MATLAB_object_decode {decode}", f"one of {list(OBJECTS)}", DAMAGED)
        kind = guards.text(found, "MATLAB_class")
        if kind is None:
            refuse("an object without MATLAB_class", "a value of MATLAB", FOREIGN)
        if isinstance(found, h5g.GroupID):
            node = self.group(found, kind, bool(decode))
        elif isinstance(found, h5d.DatasetID):
            node = self.dataset(found, kind, bool(decode), reference)
        else:
            refuse(f"a {type(found).__name__}", "a group or a data set", HOSTILE)
        if decode:
            node = {"is": "opaque", "kind": OBJECTS[decode], "class": kind, "content": node}
        self.place.pop()
        return node

    def enter(self, found: Any) -> None:
        """Make sure that an object that holds others does not hold itself, or multiply them."""
        address = h5o.get_info(found).addr
        if address in self.seen:
            refuse("a value that stands in two places", "each in one", HOSTILE)
        self.seen.add(address)

    def group(self, found: Any, kind: str, is_object: bool) -> Node:
        """A struct, a struct array or a sparse matrix."""
        self.enter(found)
        rows = guards.integer(found, "MATLAB_sparse")
        if rows is not None:
            return self.sparse(found, kind, rows)
        if kind != "struct" and not is_object:
            refuse(f"a group of class {kind!r}", "a struct", DAMAGED)
        names = self.fields(found, self.members(found))
        if names and is_column(h5o.open(found, names[0].encode())):
            return self.struct_array(found, names)
        return self.scalar_struct(found, names)

    def struct_array(self, group: Any, names: list[str]) -> Node:
        """A struct array: for each field, references to the values of all elements."""
        shapes, columns = set(), []
        for name in names:
            self.place.append(f"/{name}")
            column = h5o.open(group, name.encode())
            if not is_column(column):
                refuse("one value", "a reference for each element", DAMAGED)
            refs = self.references(column)
            self.place.pop()
            shapes.add(refs.shape)
            columns.append(self.elements(refs, f"({{}})/{name}"))
        if len(shapes) > 1:
            refuse(f"fields of the shapes {sorted(shapes)}", "one shape", DAMAGED)
        return {"is": "struct", "shape": matlab(shapes.pop()), "fields": names, "columns": columns}

    def fields(self, group: Any, members: list[str]) -> list[str]:
        """The members of a struct in MATLAB's order: those it lists, then others."""
        listed = self.listed_fields(group)
        if missing := set(listed) - set(members):
            refuse(f"no field {min(missing)!r}", "all fields in MATLAB_fields", DAMAGED)
        return list(dict.fromkeys([*listed, *members]))

    def listed_fields(self, found: Any) -> list[str]:
        """The names in MATLAB_fields; none, if there is no such attribute."""
        holder = guards.attribute(found, "MATLAB_fields")
        if holder is None:
            return []
        if isinstance(holder.get_type(), h5t.TypeReferenceID):
            reference = np.empty(holder.shape, holder.dtype)
            holder.read(reference)
            holder = self.open(reference.item())  # long lists stand in a data set
            if not isinstance(holder, h5d.DatasetID):
                refuse("MATLAB_fields that is no data set", "a list of names", DAMAGED)
        kind = holder.get_type()
        if not isinstance(kind, h5t.TypeVlenID) or kind.get_super().get_size() != 1:
            refuse("MATLAB_fields of another type", "lists of characters", DAMAGED)
        count = math.prod(holder.shape)
        if count > MAX_FIELDS:
            refuse(f"{count} fields", f"at most {MAX_FIELDS}", HOSTILE)
        names: Any = np.empty(holder.shape, holder.dtype)
        if isinstance(holder, h5d.DatasetID):
            guards.check_storage(holder, count * kind.get_size(), self.budget)
            holder.read(h5s.ALL, h5s.ALL, names)
        else:
            holder.read(names)
        return [b"".join(name).decode() for name in names.ravel()]

    def sparse(self, group: Any, kind: str, rows: int) -> Node:
        """A sparse matrix: where its columns begin, its rows, its data."""
        wanted = {"jc": "u8", "ir": "u8", "data": NUMBERS.get(kind, "")}
        parts = {}
        for name in self.members(group):
            self.place.append(f"/{name}")
            found = h5o.open(group, name.encode())
            if name not in wanted or not isinstance(found, h5d.DatasetID):
                refuse("such a member", "jc, ir and data of a sparse matrix", DAMAGED)
            parts[name] = self.array(found, kind, (wanted[name],))
            self.read_later(h5r.create(group, name.encode(), h5r.OBJECT), parts[name])
            self.place.pop()
        place = "".join(self.place)
        return {"is": "sparse", "class": kind, "rows": rows, "parts": parts, "place": place}

    def dataset(self, found: Any, kind: str, is_object: bool, make: Callable[[], Any]) -> Node:
        """An array, a cell array, or a value without elements."""
        if guards.integer(found, "MATLAB_empty"):
            return self.empty(found, kind)
        is_reference = isinstance(found.get_type(), h5t.TypeReferenceID)
        if kind == "cell" or (is_object and is_reference):
            refs = self.references(found)
            items = self.elements(refs, "{{{}}}")
            return {"is": "cell", "shape": matlab(refs.shape), "items": items}
        types = {**{k: (v,) for k, v in NUMBERS.items()}, "char": CHARS}
        if is_object:
            types[kind] = tuple(NUMBERS.values())
        if kind not in types:
            refuse(f"a data set of class {kind!r}", "a class of MATLAB", DAMAGED)
        node = self.array(found, kind, types[kind])
        self.read_later(make(), node)
        return node

    def empty(self, found: Any, kind: str) -> Node:
        """A value without elements, or structs without fields: its data are its size."""
        node = self.array(found, kind, ("u8", "u4", "i8", "i4"))
        if math.prod(node["shape"]) > MAX_DIMS or node["complex"]:
            refuse("an empty value whose data are no size", "a short vector", DAMAGED)
        data = np.empty(found.shape, found.dtype)
        found.read(h5s.ALL, h5s.ALL, data)
        size = [int(n) for n in data.ravel()]
        fields = self.listed_fields(found)
        count = math.prod(size)
        if len(size) < 2 or min(size) < 0 or (count and (kind != "struct" or fields)):
            refuse(f"an empty {kind} of size {size}", "a size with a zero", DAMAGED)
        guards.check_size(size)
        if count:
            self.budget.charge(VALUE * count)
            return {"is": "struct", "shape": size, "fields": [], "columns": []}
        return {"is": "empty", "class": kind, "shape": size, "fields": fields}

    def references(self, found: Any) -> np.ndarray:
        """The references in a data set, as an array of its shape."""
        if not found.get_type().equal(h5t.STD_REF_OBJ):
            refuse("data that are no references", "references to objects", DAMAGED)
        self.enter(found)
        shape = guards.shape_of(found)
        count = math.prod(shape)
        self.budget.charge(VALUE * count)
        guards.check_storage(found, 8 * count, self.budget)
        self.pulse(VALUE * count)
        refs = np.empty(shape, h5py.ref_dtype)
        found.read(h5s.ALL, h5s.ALL, refs)
        return refs

    def array(self, found: Any, kind: str, types: Sequence[str]) -> Node:
        """The node of a data set of numbers."""
        name, is_complex = guards.number_type(found)
        if name not in types:
            refuse(f"{name} data in a value of class {kind!r}", " or ".join(types), DAMAGED)
        shape = guards.shape_of(found)
        width = found.get_type().get_size()
        self.budget.charge(width * math.prod(shape))
        chunk = guards.check_storage(found, width * math.prod(shape), self.budget)
        return {
            "is": "array",
            "class": kind,
            "type": name,
            "complex": is_complex,
            "shape": matlab(shape),
            "block": whole_chunks(shape, chunk, width),
            "offset": guards.offset_of(found),
        }

    def read_later(self, reference: Any, node: Node) -> None:
        """Have the data of an array sent after the tree, if they do not stand in one piece."""
        if node["offset"] is None:
            self.arrays.append(Data("".join(self.place), reference, node))


def is_column(found: Any) -> bool:
    """Whether a member of a struct holds the values of one field of a struct array."""
    return (
        isinstance(found, h5d.DatasetID)
        and not h5a.exists(found, b"MATLAB_class")
        and isinstance(found.get_type(), h5t.TypeReferenceID)
    )


def matlab(shape: Sequence[int]) -> list[int]:
    """MATLAB's size of what has a shape in HDF5: two axes or more, in reverse."""
    return [*reversed(shape), *[1] * (2 - len(shape))]
