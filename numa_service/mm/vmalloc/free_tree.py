"""The tree of free addresses: a red-black tree whose nodes know the largest free area below them.

The kernel searches it for the lowest area that fits. With an alignment of more than a page it looks, since
5.2, for a size that fits wherever an area begins, `size + align - 1`, and passes over smaller subtrees; so
which hole it takes depends on the shape of the tree, and the tree here has the kernel's shape: one node an
area, balanced by the steps of lib/rbtree.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numa_service.mm.vmalloc.rules import PAGE_SIZE


class FreeArea:
    """A free range of addresses, and its node in the tree (struct vmap_area)."""

    __slots__ = ("left", "max_size", "parent", "red", "right", "va_end", "va_start")

    def __init__(self, va_start: int, va_end: int) -> None:
        self.va_start = va_start
        self.va_end = va_end
        self.left: FreeArea | None = None
        self.right: FreeArea | None = None
        self.parent: FreeArea | None = None
        self.red = True
        #: Size of the largest area of this subtree (subtree_max_size).
        self.max_size = va_end - va_start

    def compute_max_size(self) -> int:
        """The largest of this area and of both subtrees (compute_subtree_max_size)."""
        largest = self.va_end - self.va_start
        for child in (self.left, self.right):
            if child is not None and child.max_size > largest:
                largest = child.max_size
        return largest

    def fits(self, size: int, align: int, vstart: int) -> bool:
        """Is there room for `size` bytes, aligned, at or behind `vstart` (is_within_this_va)?"""
        return _align_up(max(self.va_start, vstart), align) + size <= self.va_end


def _align_up(address: int, align: int) -> int:
    return -(-address // align) * align


def _max_size(node: FreeArea | None) -> int:
    return node.max_size if node is not None else 0


class FreeTree:
    """All free addresses. Areas do not overlap and do not touch: neighbours are merged."""

    def __init__(self, start: int, end: int, *, overshoot: bool = True) -> None:
        """One free area from `start` up to `end` (vmap_init_free_space).

        With `overshoot` a search for an aligned range wants room for it wherever a free area begins.
        """
        self._overshoot = overshoot
        self.root: FreeArea | None = FreeArea(start, end)
        self.root.red = False

    def __iter__(self) -> Iterator[FreeArea]:
        """Areas by address."""
        node = self.root
        while node is not None and node.left is not None:
            node = node.left
        while node is not None:
            yield node
            node = _next(node)

    def allocate(self, size: int, align: int, vstart: int, vend: int) -> int | None:
        """The address of `size` bytes between `vstart` and `vend`, no longer free; None if there are none.

        That is __alloc_vmap_area. `align` is a power of two of at least a page.
        """
        # A short range of which all is asked for would never have the size with the alignment's overhead.
        adjust = self._overshoot and align > PAGE_SIZE and vend - vstart != size
        area = self._find_lowest_match(size, align, vstart, adjust)
        if area is None:
            return None
        start = _align_up(max(area.va_start, vstart), align)
        if start + size > vend:
            return None
        self._clip(area, start, start + size)
        return start

    def _find_lowest_match(self, size: int, align: int, vstart: int, adjust: bool) -> FreeArea | None:
        """The first area that fits on the kernel's way through the tree (find_vmap_lowest_match)."""
        length = size + align - 1 if adjust else size
        node = self.root
        while node is not None:
            if _max_size(node.left) >= length and vstart < node.va_start:
                node = node.left
            elif node.fits(size, align, vstart):
                return node
            elif _max_size(node.right) >= length:
                node = node.right
            else:
                # Go back until an area fits, or there is a subtree to the right that was not looked at.
                while (node := node.parent) is not None:
                    if node.fits(size, align, vstart):
                        return node
                    if _max_size(node.right) >= length and vstart <= node.va_start:
                        vstart = node.va_start + 1
                        node = node.right
                        break
        return None

    def take(self, start: int, end: int) -> bool:
        """Make exactly this range no longer free; False, and nothing changes, if it is not all free."""
        area = self.enclosing(start)
        if area is None or end > area.va_end:
            return False
        self._clip(area, start, end)
        return True

    def enclosing(self, address: int) -> FreeArea | None:
        """The free area that has this address."""
        node = self.root
        while node is not None and not node.va_start <= address < node.va_end:
            node = node.left if address < node.va_start else node.right
        return node

    def highest_to(self, address: int) -> FreeArea | None:
        """The area with this address or, if there is none, the next lower one (pvm_find_va_enclose_addr)."""
        node, found = self.root, None
        while node is not None:
            if node.va_start <= address:
                found = node
                if node.va_end >= address:
                    break
                node = node.right
            else:
                node = node.left
        return found

    @staticmethod
    def before(area: FreeArea) -> FreeArea | None:
        """The next lower free area."""
        return _previous(area)

    def _clip(self, area: FreeArea, start: int, end: int) -> None:
        """Take a range out of a free area that has it: adjust_va_to_fit_type."""
        if area.va_start == start and area.va_end == end:
            self._erase(area)
        elif area.va_start == start:
            area.va_start = end
            self._propagate(area)
        elif area.va_end == end:
            area.va_end = start
            self._propagate(area)
        else:
            lower = FreeArea(area.va_start, start)
            area.va_start = end
            self._propagate(area)
            self._insert(lower)

    def add(self, start: int, end: int) -> None:
        """Give a range back: it grows a free neighbour, joins two, or is a new area (merge_or_add_vmap_area).

        ValueError, and nothing changes, if some of it is free already.
        """
        below = self.highest_to(start)
        above = _next(below) if below is not None else next(iter(self), None)
        if start >= end or (below is not None and below.va_end > start):
            raise ValueError(f"{start:#x}-{end:#x} is free already")
        if above is not None and above.va_start < end:
            raise ValueError(f"{start:#x}-{end:#x} is free already")
        if above is not None and above.va_start == end:
            if below is not None and below.va_end == start:
                self._erase(above)
                below.va_end = above.va_end
                self._propagate(below)
            else:
                above.va_start = start
                self._propagate(above)
        elif below is not None and below.va_end == start:
            below.va_end = end
            self._propagate(below)
        else:
            self._insert(FreeArea(start, end))

    # snapshots

    def dump(self) -> list[Any] | None:
        """The tree with its shape, as plain data for :meth:`load`: start, end, red, and both subtrees."""

        def dumped(node: FreeArea | None) -> list[Any] | None:
            if node is None:
                return None
            return [node.va_start, node.va_end, node.red, dumped(node.left), dumped(node.right)]

        return dumped(self.root)

    def load(self, tree: list[Any] | None) -> None:
        """Replace the tree by what :meth:`dump` returned."""

        def loaded(tree: list[Any] | None, parent: FreeArea | None) -> FreeArea | None:
            if tree is None:
                return None
            start, end, red, left, right = tree
            node = FreeArea(start, end)
            node.parent, node.red = parent, red
            node.left, node.right = loaded(left, node), loaded(right, node)
            node.max_size = node.compute_max_size()
            return node

        self.root = loaded(tree, None)

    # the red-black tree

    @staticmethod
    def _propagate(node: FreeArea | None) -> None:
        """Largest sizes from a node up, as far as they change (augment_tree_propagate_from)."""
        while node is not None:
            largest = node.compute_max_size()
            if largest == node.max_size:
                return
            node.max_size = largest
            node = node.parent

    @staticmethod
    def _propagate_all(node: FreeArea | None) -> None:
        while node is not None:
            node.max_size = node.compute_max_size()
            node = node.parent

    def _replace(self, old: FreeArea, new: FreeArea | None) -> None:
        """Put `new` where `old` hangs."""
        parent = old.parent
        if parent is None:
            self.root = new
        elif parent.left is old:
            parent.left = new
        else:
            parent.right = new
        if new is not None:
            new.parent = parent

    def _rotate(self, node: FreeArea, to_left: bool) -> None:
        """A child takes the place of `node`, which becomes that child's other child."""
        if to_left:
            child = node.right
            assert child is not None
            node.right, inner = child.left, child.left
        else:
            child = node.left
            assert child is not None
            node.left, inner = child.right, child.right
        if inner is not None:
            inner.parent = node
        self._replace(node, child)
        if to_left:
            child.left = node
        else:
            child.right = node
        node.parent = child
        child.max_size = node.max_size
        node.max_size = node.compute_max_size()

    def _insert(self, new: FreeArea) -> None:
        parent, node = None, self.root
        while node is not None:
            parent = node
            node = node.left if new.va_start < node.va_start else node.right
        new.parent = parent
        if parent is None:
            self.root = new
        elif new.va_start < parent.va_start:
            parent.left = new
        else:
            parent.right = new
        self._propagate(parent)
        self._balance_inserted(new)

    def _balance_inserted(self, node: FreeArea) -> None:
        """No red node has a red parent (__rb_insert)."""
        while (parent := node.parent) is not None and parent.red:
            grandparent = parent.parent
            assert grandparent is not None  # the root is black
            left = parent is grandparent.left
            uncle = grandparent.right if left else grandparent.left
            if uncle is not None and uncle.red:
                uncle.red = parent.red = False
                grandparent.red = True
                node = grandparent
                continue
            if node is (parent.right if left else parent.left):
                self._rotate(parent, left)
                parent = node
            parent.red = False
            grandparent.red = True
            self._rotate(grandparent, not left)
            break
        assert self.root is not None
        self.root.red = False

    def _erase(self, node: FreeArea) -> None:
        """Take a node out (__rb_erase_augmented): one with two children is replaced by its successor."""
        if node.left is not None and node.right is not None:
            successor = node.right
            while successor.left is not None:
                successor = successor.left
            lost_black, child = not successor.red, successor.right
            parent = successor.parent
            assert parent is not None
            if parent is node:
                parent = successor
            else:
                self._replace(successor, child)
                successor.right = node.right
                successor.right.parent = successor
            successor.left = node.left
            successor.left.parent = successor
            self._replace(node, successor)
            successor.red = node.red
        else:
            lost_black, child, parent = not node.red, node.left or node.right, node.parent
            self._replace(node, child)
        self._propagate_all(parent)
        if lost_black:
            self._balance_erased(child, parent)

    def _balance_erased(self, node: FreeArea | None, parent: FreeArea | None) -> None:
        """Every path down has as many black nodes: `node`'s side lacks one (____rb_erase_color)."""
        while parent is not None and (node is None or not node.red):
            left = node is parent.left
            sibling = parent.right if left else parent.left
            assert sibling is not None
            if sibling.red:
                sibling.red, parent.red = False, True
                self._rotate(parent, left)
                sibling = parent.right if left else parent.left
                assert sibling is not None
            outer = sibling.right if left else sibling.left
            inner = sibling.left if left else sibling.right
            if outer is None or not outer.red:
                if inner is None or not inner.red:
                    sibling.red = True
                    node, parent = parent, parent.parent
                    continue
                sibling.red, inner.red = True, False
                self._rotate(sibling, not left)
                sibling, outer = inner, sibling
            sibling.red, parent.red, outer.red = parent.red, False, False
            self._rotate(parent, left)
            return
        if node is not None:
            node.red = False


def _next(node: FreeArea) -> FreeArea | None:
    """The free area behind this one (rb_next)."""
    if node.right is not None:
        node = node.right
        while node.left is not None:
            node = node.left
        return node
    child, parent = node, node.parent
    while parent is not None and parent.right is child:
        child, parent = parent, parent.parent
    return parent


def _previous(node: FreeArea) -> FreeArea | None:
    """The free area before this one (rb_prev)."""
    if node.left is not None:
        node = node.left
        while node.right is not None:
            node = node.right
        return node
    child, parent = node, node.parent
    while parent is not None and parent.left is child:
        child, parent = parent, parent.parent
    return parent
