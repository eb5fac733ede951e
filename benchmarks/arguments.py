"""Options that all benchmarks have."""

import argparse

import torch


def parser_of(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    return parser


def chosen_device(arguments: argparse.Namespace) -> torch.device:
    """The device, with torch's threads set."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(arguments.device)


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
