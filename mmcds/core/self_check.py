"""Kernels of our own are compared with operations of PyTorch before they are trusted."""

from collections.abc import Callable

import torch


def find_fault(
    device: torch.device, difference: Callable[[torch.device], float], limit: float, words: Callable[[float], str]
) -> str:
    """Return why kernels cannot be trusted on a device; nothing if they can.

    Args:
        device: Where they run.
        difference: Runs them there and returns how far they are from the operations; may raise anything.
        limit: What they must stay below.
        words: Says what is wrong, for a difference.
    """
    watched = torch.cuda.get_sync_debug_mode() if torch.cuda.is_available() else 0
    try:
        if watched:
            torch.cuda.set_sync_debug_mode(0)  # the comparison waits for the GPU
        found = difference(device)
    except Exception as fault:  # whatever a driver, compiler or launch may raise
        return f'{type(fault).__name__}: {str(fault).strip().partition(chr(10))[0]}'
    finally:
        if watched:
            torch.cuda.set_sync_debug_mode(watched)
    return '' if found < limit else words(found)
