#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the README's commands for the example programs, with the programs of this build: check_examples.py REPOSITORY
BUILD EXAMPLE.... A command whose model is not there is not run; its options must be the program's all the same."""

import pathlib
import re
import shlex
import subprocess
import sys


def run(*command, folder=None):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)


def problem(command, repository, build):
    """What is wrong with one of the README's commands, or None. They are run in the clone."""
    words = [word.replace("build/demo", str(build), 1) for word in shlex.split(command)]
    if not words[0].startswith(str(build)):
        return "the program is not one of build/demo"
    models = [word for option, word in zip(words, words[1:]) if option == "--model" and word.endswith(".gguf")]
    missing = [model for model in models if not pathlib.Path(model).exists()]
    if missing:
        help_text = run(words[0], "--help").stdout
        unknown = [word for word in words if word.startswith("--") and word not in help_text]
        return f"unknown options: {', '.join(unknown)}" if unknown else None
    result = run(*words, folder=repository)
    if result.returncode != 0 or not result.stdout.strip():
        return f"exit code {result.returncode}\n{result.stdout}{result.stderr}"
    return None


def main(repository, build, *examples):
    readme = (pathlib.Path(repository) / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^<!-- examples -->\n+```sh\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    if not block:
        sys.exit("README.md has no sh block after <!-- examples -->")
    commands = block.group(1).splitlines()
    shown = {pathlib.PurePosixPath(shlex.split(command)[0]).name for command in commands}
    problems = [f"README.md shows no command for {name}" for name in sorted(set(examples) - shown)]
    for command in commands:
        if pathlib.PurePosixPath(shlex.split(command)[0]).name not in examples:
            continue  # not built here: something it needs is not installed
        found = problem(command, repository, build)
        problems += [f"{command}\n  {found}"] if found else []
    sys.exit("\n".join(problems) or None)


if __name__ == "__main__":
    main(*sys.argv[1:])
