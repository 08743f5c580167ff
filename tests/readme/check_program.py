#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compile and run the README's programs by the README's own command: check_program.py REPOSITORY COMPILER"""

import pathlib
import re
import subprocess
import sys
import tempfile


def block(readme, marker, language):
    found = re.search(rf"^<!-- {marker} -->\n+```{language}\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    if not found:
        sys.exit(f"README.md has no {language} block after <!-- {marker} -->")
    return found.group(1)


def check(repository, compiler, command, program, printed, most_lines):
    """The program has no more lines than promised and prints what the README says."""
    if program.count("\n") > most_lines:
        sys.exit(f"the program has {program.count(chr(10))} lines, promised are {most_lines}:\n{program}")
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "include").symlink_to(pathlib.Path(repository, "include").resolve())
        pathlib.Path(folder, "first.cpp").write_text(program, encoding="utf-8")
        script = f'set -e\n"{compiler}" {command[len("g++ "):]}'
        run = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"failed:\n{run.stdout}{run.stderr}")
    if run.stdout != printed:
        sys.exit(f"the program prints\n{run.stdout}and the README says\n{printed}")


def main(repository, compiler):
    readme = pathlib.Path(repository, "README.md").read_text(encoding="utf-8")
    command = block(readme, "compile", "sh")
    if not command.startswith("g++ "):
        sys.exit(f"the command does not start with g++: {command}")
    for name, most_lines in (("", 15), (": layers", 25)):
        check(repository, compiler, command, block(readme, "program" + name, "cpp"),
              block(readme, "prints" + name, "text"), most_lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
