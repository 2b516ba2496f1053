"""python -m weft doctor"""

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m weft",
        description="Weft from Python; the program weft has the other commands")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser(
        "doctor", help="tell what this machine has and what Weft would use")
    doctor.add_argument("--json", action="store_true",
                        help="print one JSON object")
    args = parser.parse_args()

    from weft import doctor as _doctor
    return _doctor.main(args.json)


if __name__ == "__main__":
    sys.exit(main())
