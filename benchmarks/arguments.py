"""Options of all benchmarks, and their description of the machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from frame import Record, save

from harness.common.provenance import code_version, processor, software
from harness.train.device import describe, resolve_device


def parser_of(description: str, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks; `rounds` is a default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="auto", help="auto (the default), cpu, cuda or mps")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--rounds", type=int, help=f"by default {rounds}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--save", action="store_true", help="keep it in benchmarks/results")
    parser.set_defaults(usual_rounds=rounds)
    return parser


def chosen_device(arguments: argparse.Namespace) -> torch.device:
    """Return the device, after setting torch's threads and filling in `rounds`.

    Raises:
        UserError: There is no such device.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.rounds is None:
        arguments.rounds = 2 if arguments.quick else arguments.usual_rounds
    return resolve_device(arguments.device)


def settle_of(device: torch.device) -> Callable[[], object]:
    """Return a function that waits for the device (frame.alternate)."""
    if device.type == "cuda":
        return partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def machine(device: torch.device) -> dict[str, Any]:
    """Return the description of code and machine in a record."""
    version = code_version()
    return {
        "kind": device.type,
        "device": describe(device),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        **software(),
        "commit": version["commit"],
        "dirty": version["dirty"],
    }


def keep(record: Record, arguments: argparse.Namespace) -> None:
    """Save a record with `--save`, unless `--quick` made it worthless."""
    if arguments.save and not arguments.quick:
        print(f"written: {save(record)}")
