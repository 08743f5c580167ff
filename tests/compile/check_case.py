#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check one must-not-compile case: check_case.py CASE.cpp COMPILER [FLAG...]

The case compiles as it stands (the positive control). With BROKEN defined it does not, and what the compiler says
matches every `// error: REGEX` comment of the case, in one line of output each. `// errors: N` says how many it reports.
"""

import re
import subprocess
import sys


def compile_case(command, case, *defines):
    return subprocess.run([*command, "-fsyntax-only", *defines, case], capture_output=True, text=True, check=False)


def main(case, *command):
    expected = re.findall(r"^// error: (.+)$", open(case, encoding="utf-8").read(), re.MULTILINE)
    if not expected:
        return f"{case} has no `// error: REGEX` comment"
    control = compile_case(command, case)
    if control.returncode != 0:
        return f"the positive control does not compile:\n{control.stderr}"
    broken = compile_case(command, case, "-DBROKEN")
    if broken.returncode == 0:
        return "compiles with BROKEN defined"
    # Only diagnostics: the source lines quoted beneath them would match whatever the case itself says.
    said = [line for line in broken.stderr.splitlines() if re.search(r"error:|note:|required from|instantiation of", line)]
    for regex in expected:
        if not any(re.search(regex, line) for line in said):
            return f"nothing the compiler says matches {regex!r}:\n{broken.stderr}"
    counts = re.findall(r"^// errors: (\d+)$", open(case, encoding="utf-8").read(), re.MULTILINE)
    errors = sum(bool(re.search(r"error:", line)) for line in said)
    if counts and errors != int(counts[0]):
        return f"{errors} errors, expected {counts[0]}:\n{broken.stderr}"
    return None


if __name__ == "__main__":
    problem = main(*sys.argv[1:])
    if problem:
        sys.exit(problem)
