#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hold every program to what people expect of one: check_programs.py PROGRAM....
--help names every option that it should and no other, --version says which program of which gqa, and a mistake is one
line on standard error, nothing on standard output and exit code 2."""

import pathlib
import re
import subprocess
import sys

MODEL = "--model --chat --max-tokens --threads --weights --cache-dtype --json"
OPTIONS = {
    "beam": MODEL + " --prompt --beams --length-penalty --show",
    "block": "--heads --kv-heads --head-dim --latent-dim --ffn-dim --tokens --threads --json",
    "cache_size": "--model --list --json --dtype --context --layers --heads --kv-heads --head-dim --value-dim --latent-dim "
                  "--window --local-layers --memory --device-memory --weights --weights-dtype --users --placement "
                  "--page-tokens --shared-tokens --max-span --plot",
    "choose_groups": "--heads --head-dim --value-dim --layers --context --batch --dtype --threads --quality --same-loss "
                     "--max-memory --max-decode --max-loss --rates --json",
    "convert": "--model --out --kv-heads --map --budget --method --grouping --distance --seed --factors --keep-norms "
               "--calibration --noise --type --groups --perplexity --context --tokens --threads --json",
    "five_steps": "--model --prompt --layer --window --json",
    "generate": MODEL + " --prompt --prompt-file --temperature --top-k --seed --cache --load --save --perplexity",
    "gqa_bench": "--list --no_machine --serve --benchmark_filter --benchmark_format --benchmark_out "
                 "--benchmark_repetitions --benchmark_min_time --benchmark_color",
    "latent_convert": "--model --calibration --perplexity --out --form --noise --context --tokens --decode --threads --json",
    "look": "--model --text --text-file --html --svg --picture --json --explain --layer --head --sinks --window --cells "
            "--importance --threads --weights",
    "native_sparse": "--heads --kv-heads --head-dim --tokens --block --stride --page --pages --window --threads --json",
    "read_less": "--model --text --text-file --prompt --tokens --keep --method --sinks --window --pool --svg --json --threads "
                 "--weights",
    "serve_batch": MODEL + " --prompts --system --arrival --samples --temperature --top-k --seed --pages --max-sequences "
                   "--prompt-tokens --verify",
    "speculate": MODEL + " --prompt --prompt-file --ngram --draft --branches --verify --compare",
    "uptrain": "--text --out --quick --steps --seeds --layers --width --context --batch --rate --uptraining-rate --methods "
               "--threads --checkpoint-seconds --json",
    "uptrain_gguf": "--model --text --perplexity --out --reference --beside --name --steps --warm-up --sequences --context "
                    "--every --rate --seed --tokens --threads --checkpoint-seconds --json",
}
WITHOUT_OPTIONS = {"train_copy"}  # the program of the README, as it stands there
# What is needed for the mistake to be the only one.
A_MODEL = "--model none.gguf "
REQUIRED = {"beam": A_MODEL + "--prompt x", "choose_groups": "--heads 8 --head-dim 64 --context 128",
            "convert": A_MODEL + "--out x", "generate": A_MODEL + "--prompt x",
            "latent_convert": A_MODEL + "--calibration x --perplexity x", "look": A_MODEL + "--text x",
            "read_less": A_MODEL + "--text x", "serve_batch": A_MODEL, "speculate": A_MODEL + "--prompt x",
            "uptrain_gguf": A_MODEL + "--text x --perplexity x --out x"}


def run(program, *arguments):
    return subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                          timeout=60)


def problems(program):
    name = pathlib.PurePath(program).name
    if name in WITHOUT_OPTIONS:
        return
    if name not in OPTIONS:
        yield "its options are not listed in check_programs.py"
        return

    help_ = run(program, "--help")
    if help_.returncode != 0 or help_.stderr:
        yield f"--help: exit code {help_.returncode}, {help_.stderr!r}"
    if run(program, "-h").stdout != help_.stdout:
        yield "-h is not --help"
    named = set(re.findall(r"^ +(?:-\w,)?(--[\w-]+)", help_.stdout, re.MULTILINE))
    expected = {"--help", "--version", *OPTIONS[name].split()}
    if named != expected:
        yield f"--help lacks {sorted(expected - named)}, and should not have {sorted(named - expected)}"
    first = help_.stdout.splitlines()[0] if help_.stdout else ""
    if not re.fullmatch(r"[A-Z].*\.", first):
        yield f"--help does not begin with a sentence: {first!r}"
    if name != "gqa_bench" and f"Usage: {name} [OPTIONS]" not in help_.stdout:
        yield "--help does not say how the program is called"
    for line in re.findall(r"^  (?:-\w,)?--[\w-]+.*$", help_.stdout, re.MULTILINE):
        words = re.search(r" {2,}(\S.*)$|\bREQUIRED +(\S.*)$", line)
        if words and re.match(r"[A-Z][a-z]", words.group(1) or words.group(2)):
            yield f"other options are described from a small letter on: {line.strip()!r}"

    version = run(program, "--version")
    if version.returncode != 0 or version.stderr or not re.fullmatch(rf"{name} gqa \d+\.\d+\.\d+\n", version.stdout):
        yield f"--version: exit code {version.returncode}, {version.stdout!r}, {version.stderr!r}"

    required = REQUIRED.get(name, "").split()
    mistakes = [["--no-such-option"], [*required, "--no-such-option"], [*required, "no-such-word"]]
    if "--threads" in expected:
        mistakes += [[*required, "--threads", "0"], [*required, "--threads", "many"]]
    if "--json" in expected and "--model" in required:
        mistakes += [[*required, "--json"]]  # no such file
    for arguments in mistakes:
        result = run(program, *arguments)
        if result.returncode != 2 or result.stdout or not re.fullmatch(rf"{name}: [^\n\033]+\n", result.stderr):
            yield (f"{' '.join(arguments)}: exit code {result.returncode}, standard output {result.stdout!r}, "
                   f"standard error {result.stderr!r}")
        elif "no-such" in arguments[-1] and arguments[:-1] == required and "no-such" not in result.stderr:
            yield f"{' '.join(arguments)}: the mistake is not named: {result.stderr!r}"


def main(*programs):
    found = [f"{pathlib.PurePath(program).name}: {problem}" for program in programs for problem in problems(program)]
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main(*sys.argv[1:])
