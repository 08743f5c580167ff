#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compile and run the README's programs by the README's own command, the first also with the one header made of all:
check_program.py REPOSITORY COMPILER CMAKE"""

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


def check(include, compiler, command, program, printed, most_lines):
    """The program has no more lines than promised and prints what the README says."""
    if program.count("\n") > most_lines:
        sys.exit(f"the program has {program.count(chr(10))} lines, promised are {most_lines}:\n{program}")
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "include").symlink_to(include)
        pathlib.Path(folder, "first.cpp").write_text(program, encoding="utf-8")
        script = f'set -e\n"{compiler}" {command[len("g++ "):]}'
        run = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"failed:\n{run.stdout}{run.stderr}")
    if run.stdout != printed:
        sys.exit(f"the program prints\n{run.stdout}and the README says\n{printed}")


def has_xxhash(compiler):
    test = subprocess.run([compiler, "-E", "-x", "c++", "-"], input="#include <xxhash.h>", capture_output=True, text=True,
                          check=False)
    return test.returncode == 0


def make_single_header(repository, cmake, folder):
    made = pathlib.Path(folder, "gqa_single.hpp")
    subprocess.run([cmake, "-D", f"INCLUDE_DIR={repository}/include", "-D", "VERSION=0", "-D", f"OUTPUT={made}", "-P",
                    f"{repository}/cmake/GqaSingleHeader.cmake"], check=True)


def main(repository, compiler, cmake):
    repository = pathlib.Path(repository).resolve()
    readme = pathlib.Path(repository, "README.md").read_text(encoding="utf-8")
    command = block(readme, "compile", "sh")
    if not command.startswith("g++ "):
        sys.exit(f"the command does not start with g++: {command}")
    for name, most_lines in (("", 15), (": layers", 25), (": pages", 25), (": files", 25), (": convert", 25)):
        program, flags = block(readme, "program" + name, "cpp"), "first"
        if name == ": files":
            if not has_xxhash(compiler):
                print("xxHash is not here: the program for files was not run")
                continue
            flags = "first -lxxhash"
        check(repository / "include", compiler, command.replace("-o first", "-o " + flags), program,
              block(readme, "prints" + name, "text"), most_lines)
    example = pathlib.Path(repository, "examples/train_copy/main.cpp").read_text(encoding="utf-8")
    training = block(readme, "program: training", "cpp")
    if not example.endswith(training) or training.count("\n") > 30:
        sys.exit("examples/train_copy, which is tested to print what the README says, is not its program of 30 lines")
    first, printed = block(readme, "program", "cpp"), block(readme, "prints", "text")
    with tempfile.TemporaryDirectory() as folder:
        make_single_header(repository, cmake, folder)
        check(folder, compiler, command, first.replace("<gqa/gqa.hpp>", "<gqa_single.hpp>"), printed, 15)
        # The lines that gqa::compiled takes: nothing it needs may stand among those it skips.
        check(folder, compiler, command.splitlines()[0].replace("-o first", "-fsyntax-only") + "\n",
              "#define GQA_COMPILED\n" + first.replace("<gqa/gqa.hpp>", "<gqa_single.hpp>"), "", 16)


if __name__ == "__main__":
    main(*sys.argv[1:])
