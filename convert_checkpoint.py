#!/usr/bin/env python
"""Turns a published state into a checkpoint of this project, or a teacher of scene flow into a published state.

Published states are those of Bi-PointFlowNet, and of PointPillars from OpenPCDet.
"""

import lib  # noqa: F401  (before torch: it sets up OpenMP)

# isort: split
import argparse
import io
from pathlib import Path

import torch

from lib.cli import run_script
from lib.errors import InputError
from lib.files import write_atomically
from lib.flags import Parser
from lib.training.checkpoint import file_digest, save_checkpoint
from models import CHECKPOINT_FORMAT, load_model
from models.files import read_checkpoint
from models.scene_flow.published import to_published

EPILOG = """examples:
  python convert_checkpoint.py bi_pointflownet.pth checkpoints/ft3d.pt
  python convert_checkpoint.py runs/teacher/best.pt for_others.pth

Which way is seen from the file. Every script also reads a published state as it is. The published code expects 188
tensors that it never uses: on the way back these are zeros and the identity.
"""


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    is_ours = read_checkpoint(args.source).get("format") == CHECKPOINT_FORMAT
    net = load_model(args.source)
    if is_ours:
        try:
            state = to_published(net.name, net.options, net.state_dict())
        except InputError as error:
            raise InputError(f"{args.source}: {error}") from None
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(args.out, content.getvalue())
    else:
        origin = {"file": args.source.name, "sha256": file_digest(args.source)}
        save_checkpoint(args.out, net, {"converted_from": origin})
    print(f"wrote {args.out}: {'a published state' if is_ours else 'a checkpoint of this project'}, network {net.name}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="convert_checkpoint.py", description=__doc__.strip(), epilog=EPILOG)
    parser.add_argument("source", type=Path, metavar="IN", help="a published state, or best.pt or last.pt of a teacher")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write")
    args = parser.parse_args(argv)
    if args.out.is_dir() or not args.out.absolute().parent.is_dir():
        raise InputError(f"{args.out}: give a file in a folder that exists")
    if args.out.exists() and args.source.exists() and args.out.samefile(args.source):
        raise InputError(f"{args.out} is the file to be read: give another name to write to")
    return args


if __name__ == "__main__":
    run_script(main)
