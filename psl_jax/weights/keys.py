"""Keys of nested dicts as files name them, and back."""

from typing import Any


def str_keys(tree: Any) -> Any:
    """Nested dicts with every key as a string, as files name them."""
    return {str(k): str_keys(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def int_keys(tree: Any) -> Any:
    """Undoes `str_keys`: the network numbers its blocks."""
    if not isinstance(tree, dict):
        return tree
    return {int(k) if str(k).isdigit() else k: int_keys(v) for k, v in tree.items()}
