"""Which home has what of a node's slabs: the notes of decision 0012, as mappings over the slabs' arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from numa_service.mm.slab.slub_node import NodeSlabs
from numa_service.node.owners import Owner


class Homes:
    """The numbers by which a node's slabs name homes, which are kernels of nodes; the first is its own."""

    def __init__(self, own: Owner) -> None:
        self._owners = [own]
        self._numbers = {own: 1}

    def number(self, home: Owner) -> int:
        """The number of a home."""
        number = self._numbers.get(home)
        if number is None:
            self._owners.append(home)
            number = self._numbers[home] = len(self._owners)
        return number

    def of_earlier_lineages(self, nid: int, lineage: int) -> set[int]:
        """The numbers of homes that a node was in lineages before this one."""
        return {self._numbers[home] for home in self._owners if home.nid == nid and home.lineage < lineage}

    def owner(self, number: int) -> Owner:
        """The home that has this number."""
        return self._owners[number - 1]


class TakenObjects(MutableMapping[int, Owner]):
    """By address, the home that has an object which is not in its slab: on a CPU, or in use.

    Pages that kmalloc gives whole are of no slab; they are kept here.
    """

    def __init__(self, slabs: NodeSlabs, homes: Homes) -> None:
        self._slabs = slabs
        self._homes = homes
        self._whole: dict[int, Owner] = {}

    def __getitem__(self, address: int) -> Owner:
        number = self._slabs.place.home_of(address)
        return self._homes.owner(number) if number else self._whole[address]

    def __setitem__(self, address: int, home: Owner) -> None:
        if self._slabs.virt_to_slab(address) is None:
            self._whole[address] = home
        else:
            self._slabs.place.set_home(address, self._homes.number(home))

    def __delitem__(self, address: int) -> None:
        """Whole pages come back; objects of slabs do so with them."""
        del self._whole[address]

    def _numbers(self) -> Iterator[tuple[int, int]]:
        for slab in self._slabs.slabs.values():
            if slab.inuse:
                for address, number in zip(slab.all_objects(), slab.homes, strict=True):
                    if number:
                        yield address, number

    def __iter__(self) -> Iterator[int]:
        yield from (address for address, _ in self._numbers())
        yield from self._whole

    def __len__(self) -> int:
        objects = sum(sum(map(bool, slab.homes)) for slab in self._slabs.slabs.values())
        return objects + len(self._whole)


class FrozenSlabs(Mapping[int, Owner]):
    """By first page, the home a CPU of which has the slab."""

    def __init__(self, slabs: NodeSlabs, homes: Homes) -> None:
        self._slabs = slabs
        self._homes = homes

    def __getitem__(self, pfn: int) -> Owner:
        number = self._slabs.slabs[pfn].home
        if not number:
            raise KeyError(pfn)
        return self._homes.owner(number)

    def __iter__(self) -> Iterator[int]:
        return (pfn for pfn, slab in self._slabs.slabs.items() if slab.home)

    def __len__(self) -> int:
        return sum(1 for _ in self)
