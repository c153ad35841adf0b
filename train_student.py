#!/usr/bin/env python
"""Distils a student from a trained teacher: minimises gamma * L_KD + (1 - gamma) * L_GT.

L_KD is the multi-scale distance of the student's flow to the teacher's at the same points, L_GT that to the truth.
gamma 0 trains the student from scratch and loads no teacher; gamma 1 uses no ground truth in the loss.
--distill adds terms of other methods to this loss.
"""

import argparse
from pathlib import Path

from lib.cli import Parser, add_data_flags, add_machine_flags, add_training_flags, parse_training, run_script
from lib.errors import InputError
from lib.losses.distill import METHODS, OutputDistillation, Selection, default_options, parse_distill
from lib.provenance import PROJECT_ROOT
from lib.tasks.scene_flow import TASKS
from lib.training.checkpoint import TEACHERS, resolve_teacher
from lib.training.run import display_path, run_training
from lib.training.run_folder import say

EPILOG = """examples:
  python train_student.py --teacher ft3d --gamma 0.3 --data-root DATA
      a student for KITTI from the teacher that train_teacher.py left in checkpoints/ft3d
      (the reports train 560 epochs from a KITTI teacher and 1200 from the FlyingThings3D teacher)
  python train_student.py --teacher ft3d --distill output:0.3,multiscale:0.5,rkd --data-root DATA
      the same with two more terms in the loss; README.md, "Distillation methods", has the list
  python train_student.py --gamma 0 --dataset synthetic-drive --num-points 1024 --epochs 20
      the same student without a teacher, on synthetic street scenes, which need no download

The teacher is scored on the validation part before the first step, beside the zero flow: a broken one is seen at once.
A run that was stopped goes on, exactly, with: python train_student.py --resume --out DIR
"""


def default_out(args: argparse.Namespace) -> Path:
    """runs/student-<data set>-<teacher>-gamma<g>-seed<s>, with more to its name for other students and methods."""
    methods = chosen_methods(args)
    teacher = "scratch"
    if methods.teacher_users and args.teacher is not None:
        path = Path(args.teacher)
        teacher = path.parent.name if path.stem in ("best", "last") else path.stem
    student = "student" if args.student == "half" else f"student_{args.student}"
    terms = "".join("+" + str(term).replace(":", "-").replace("/", ".") for term in methods.terms)
    name = f"{student}-{args.dataset}-{teacher}-gamma{methods.gamma:g}{terms}-seed{args.seed}"
    return display_path(PROJECT_ROOT / "runs" / name)


def chosen_methods(args: argparse.Namespace) -> Selection:
    """What --distill, --gamma and --final-only say together."""
    return parse_distill(args.distill, args.gamma, args.final_only)


def main(argv: list[str] | None = None) -> int:
    task = TASKS["scene-flow"]
    parser = Parser(prog="train_student.py", description=__doc__.strip(), epilog=EPILOG)
    group = parser.add_argument_group("distillation")
    group.add_argument(
        "--teacher",
        metavar="|".join([*TEACHERS, "PATH"]),
        help="a name looks in checkpoints/ for NAME/best.pt or NAME.pt; anything else is a path",
    )
    group.add_argument("--student", choices=list(task.students), default="half", help="width of the student")
    group.add_argument(
        "--gamma",
        type=float,
        help=f"weight of the teacher, from 0 to 1, as in --distill output:G (default: {OutputDistillation.weight})",
    )
    group.add_argument(
        "--distill",
        metavar="METHOD[@PLACE][+OPTION=VALUE...][:WEIGHT],...",
        help=f"methods whose losses are added up, of {', '.join(METHODS)} (default: output); with options, as they "
        f"are by default: {', '.join(default_options())}",
    )
    group.add_argument("--final-only", action="store_true", help="compare with the teacher at the finest level only")
    add_data_flags(parser, task.datasets, default="kitti")
    add_training_flags(parser, lr_step=150, out="runs/student-DATASET-TEACHER-gammaG-seedS")
    add_machine_flags(parser, workers=2)
    args = parse_training(parser, argv, default_out)

    methods = chosen_methods(args)
    teacher = None
    if methods.teacher_users:
        if args.teacher is None:
            without = "choose methods that need none" if methods.terms else "--gamma 0 to train from scratch"
            raise InputError(
                f"--teacher is needed for {', '.join(methods.teacher_users)}: give {', '.join(TEACHERS)} or a "
                f"checkpoint's path, or {without}"
            )
        teacher = resolve_teacher(args.teacher)
    elif args.teacher is not None:
        say(f"gamma is 0: the teacher {args.teacher} is not used")
    return run_training(task, args, "train_student.py", task.students[args.student], methods, teacher)


if __name__ == "__main__":
    run_script(main)
