"""Several GPUs: the same answer as one, and how much faster; random weights in a model's shape.

    python scripts/gpu_scale.py --preset two --commit HASH
        the two-GPU record, results/gpu/two-gpu.json
    python scripts/gpu_scale.py --gpus 2,4 --model llama3.1-70b --lengths 131072,524288
        one model over growing numbers of GPUs, results/gpu/scale-<model>.json;
        --ways tensor_parallel,device_map: besides with its layers spread

Each stage runs in processes of its own (torchrun for tensor parallel) and writes its part of the
record as soon as it is measured; what a record of the same commit holds is not measured again.
`--tiny` runs everything on a CPU in small shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from gpu_common import REPO, head

WORKER = Path(__file__).with_name("gpu_scale_worker.py")


def main() -> None:
    args = arguments()
    name = "two-gpu" if args.preset else f"scale-{args.model}"
    out = args.out or REPO / "results" / "gpu" / f"{name}{'-tiny' if args.tiny else ''}.json"
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    begin(out, args.commit)
    deadline = time.time() + args.budget
    scratch = tempfile.TemporaryDirectory()
    failed = []
    for ranks, way, wanted in stages(args):
        jobs = [job for job in wanted if not done_before(out, job, way, ranks)]
        if not jobs:
            continue
        if time.time() > deadline:
            print(f"== left out for want of time: {way} over {ranks}", flush=True)
            failed.append(f"{way} over {ranks}: no time left")
            continue
        command = [sys.executable]
        if way == "tensor_parallel":
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(ranks)]
        command += [str(WORKER), "--out", str(out), "--way", way, "--gpus", str(ranks)]
        command += ["--scratch", scratch.name]
        command += ["--deadline", str(deadline), "--chunk", str(args.chunk)]
        switches = {"--tiny": args.tiny, "--no-graphs": args.no_graphs}
        command += ["--decode", str(args.decode), *(s for s, on in switches.items() if on), *jobs]
        print(f"== {way} over {ranks}: {' '.join(jobs)}", flush=True)
        start = time.time()
        status = run(command, environment(args.tiny), args.stage_limit)
        print(f"== {time.time() - start:.0f} s, exit status {status}", flush=True)
        if status:
            failed.append(f"{way} over {ranks}: exit status {status}")
    record = json.loads(out.read_text())
    record["failed_stages"] = failed
    record["comparisons"] = comparisons(record["results"])
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["comparisons"], indent=1))
    print(f"written: {out}")
    wrong = [key for key, value in record["results"].items() if value.get("agrees") is False]
    if failed or wrong:
        raise SystemExit(f"not all is well: {failed + wrong}")


def begin(out: Path, commit: str | None) -> None:
    """A record to write into, with the results of one of the same commit."""
    record: dict = {**source(commit), "results": {}}
    if out.exists():
        held = json.loads(out.read_text())
        if held["commit"] == record["commit"]:
            unfinished = ("error", "skipped")
            results = {
                key: result
                for key, result in held["results"].items()
                if not any(word in result for word in unfinished)
            }
            record = {**held, **record, "results": results}  # its versions and devices too
    out.write_text(json.dumps(record))


def done_before(out: Path, job: str, way: str, ranks: int) -> bool:
    """A check is repeated: the others are compared with its answers."""
    return f"{job} {way} {ranks}" in json.loads(out.read_text())["results"]


def run(command: list[str], environment: dict[str, str], limit: float) -> int:
    """Exit status; all of a stage's processes are ended when it takes longer than `limit` s."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # torchrun ends those it started, in their sessions
        try:
            return process.wait(40) or 1
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--preset", choices=["two", "two-short"],
        help="the stages of the two-GPU record; two-short: without full attention beside it",
    )  # fmt: skip
    parser.add_argument("--gpus", default="2", help="numbers of GPUs, as in 2,4,8")
    parser.add_argument("--ways", default="tensor_parallel", help="of several GPUs")
    parser.add_argument("--model", default="llama3.1-8b", help="a shape of gpu_scale_worker.py")
    parser.add_argument("--lengths", default="131072")
    parser.add_argument("--methods", default="reattention,full")
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--decode", type=int, default=32, help="new tokens")
    parser.add_argument("--budget", type=float, default=1e9, help="begin no stage after so many s")
    parser.add_argument(
        "--stage-limit", type=float, default=1e6, help="end a stage after so many s"
    )
    parser.add_argument("--commit", help="of a copy without Git history")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-graphs", action="store_true", help="launch decode steps one by one")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def stages(args: argparse.Namespace) -> list[tuple[int, str, list[str]]]:
    """(processes or GPUs, way, jobs): a job is `check`, or MODEL:LENGTH:METHOD."""
    if args.preset:
        short, long = ("300", "200") if args.tiny else ("131072", "32768")
        eight = [f"llama3.1-8b:{short}:{m}" for m in ("reattention", "full")]
        seventy = [f"llama3.1-70b:{long}:reattention"]
        if args.preset == "two-short":
            return [
                (1, "one", ["check", eight[0]]),
                (2, "tensor_parallel", ["check", eight[0], *seventy]),
                (2, "device_map", ["check"]),
            ]
        return [
            (1, "one", ["check", *eight]),
            (2, "tensor_parallel", ["check", eight[0], *seventy, eight[1]]),
            (2, "device_map", ["check", *seventy]),
        ]
    jobs = [
        f"{args.model}:{length}:{method}"
        for length in args.lengths.split(",")
        for method in args.methods.split(",")
    ]
    sizes = [int(size) for size in args.gpus.split(",")]
    return [(n, way, jobs) for n in sizes for way in (args.ways.split(",") if n > 1 else ["one"])]


def environment(tiny: bool) -> dict[str, str]:
    own = {"PYTHONPATH": os.pathsep.join([str(REPO), str(REPO / "kernels")])}
    if os.environ.get("PYTHONPATH"):
        own["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    if tiny:
        own |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own}


def source(stated: str | None) -> dict[str, str | None]:
    commit = head() or stated
    if not commit:
        raise SystemExit("this copy has no Git history; state its commit with --commit.")
    return {"commit": commit, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def comparisons(results: dict[str, dict]) -> list[dict]:
    """Each measurement over several GPUs against the one over the fewest, per job."""
    runs: dict[str, list[dict]] = {}
    for result in results.values():
        if "ttft_seconds" in result:
            job = f"{result['model']}:{result['tokens']}:{result['method']}"
            runs.setdefault(job, []).append(result)
    rows = []
    for job, found in runs.items():
        base, *others = sorted(found, key=lambda r: (r["gpus"], r["way"] == "device_map"))
        for result in others:
            row = {
                "job": job,
                "way": result["way"],
                "gpus": result["gpus"],
                "against": f"{base['way']} over {base['gpus']}",
            }
            for name, key in (("prefill", "ttft_seconds"), ("decode", "tpot_seconds")):
                faster = base[key] / result[key]
                row[f"{name}_speedup"] = round(faster, 3)
                row[f"{name}_efficiency"] = round(faster * base["gpus"] / result["gpus"], 3)
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
