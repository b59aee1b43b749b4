"""Runs Java programs on the official client against a cluster that is started for them.

    python tests/compat/run_java.py programs [NAME…]    our own, in tests/compat/java
    python tests/compat/run_java.py samples FOLDER      HelloWorldWriter and HelloWorldReader
    python tests/compat/run_java.py compare [NAME…]     our own, here and against Pravega itself

`make test-java`, `make test-samples` and `make compare-java` call it. Needs a JDK (17) and
Maven, which fetches the client. The samples are those of Pravega: FOLDER is a checkout of
theirs, compiled where it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
JAVA = HERE / "java"
TARGET = JAVA / "target"
sys.path[:0] = [str(HERE.parent / "e2e"), str(HERE)]

import reference  # noqa: E402 - needs the path above
from helpers.cluster import StandaloneCluster  # noqa: E402

SAMPLES = Path("pravega-client-examples/src/main/java/io/pravega/example/gettingstarted")
SAMPLE_PACKAGE = "io.pravega.example.gettingstarted"
SAMPLE_SCOPE, SAMPLE_STREAM, SAMPLE_EVENT = "examples", "helloStream", "hello anabranch"
QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
ALL_LIMIT_S = 1800.0
NOT_COMPARED = ("retention-size", "retention-time", "retention-consumption")
"""Pravega's standalone applies policies every half hour."""

SAMPLE_LIMIT_S = 90.0
QUICK = {
    "ANABRANCH_CONTROLLER__RETENTION_PERIOD_S": "2",
    "ANABRANCH_CONTROLLER__WATERMARK_PERIOD_S": "1",
}
"""Half an hour and ten seconds otherwise; the programs wait for what happens then."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    programs = verbs.add_parser("programs", help="our own programs; all, or those named")
    programs.add_argument("names", nargs="*", metavar="NAME")
    samples = verbs.add_parser("samples", help="HelloWorldWriter and HelloWorldReader")
    samples.add_argument("folder", type=Path, metavar="FOLDER")
    compare = verbs.add_parser("compare", help="our own programs, also against Pravega")
    compare.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    if arguments.verb == "compare":
        return _compare(arguments.names)
    with tempfile.TemporaryDirectory(prefix="anabranch-java-") as folder:
        cluster = StandaloneCluster(Path(folder), environment=QUICK)
        if arguments.verb == "programs":
            classpath = _built()
            cluster.start()
            code = _run_programs(cluster, classpath, arguments.names)
        else:
            classpath = _built_samples(arguments.folder)
            cluster.start()
            code = _run_samples(cluster, classpath)
        if code != 0:
            print(cluster.log(), file=sys.stderr)
        cluster.end()
    return code


def _run_programs(cluster: StandaloneCluster, classpath: str, names: list[str]) -> int:
    addresses = cluster.addresses
    command = ["java", "-cp", classpath, "compat.Main"]
    command += [str(addresses["controller"]), str(addresses["rest"]), *names]
    return subprocess.run(command, timeout=ALL_LIMIT_S, check=False).returncode


def _compare(names: list[str]) -> int:
    """Run the programs here and there; 1 when one passes on one side only."""
    reference.isolate()
    classpath = _built()
    libraries = TARGET / "classpath-reference"
    _maven("-Preference", "dependency:build-classpath", f"-Dmdep.outputFile={libraries}")
    with tempfile.TemporaryDirectory(prefix="anabranch-java-") as folder:
        cluster = StandaloneCluster(Path(folder) / "ours", environment=QUICK)
        (Path(folder) / "ours").mkdir()
        cluster.start()
        ours = _results(classpath, cluster.controller, str(cluster.addresses["rest"]), names)
        cluster.end()
        wanted = [name for name in ours if name not in NOT_COMPARED]
        with reference.pravega(Path(folder) / "pravega", libraries.read_text().strip()) as at:
            theirs = _results(classpath, at.controller, at.rest, wanted)
    differing = [name for name in wanted if ours[name][0] != theirs[name][0]]
    for name in wanted:
        print(f"{name:24} ours {' '.join(ours[name]):16} Pravega {' '.join(theirs[name])}")
    print(f"{len(wanted) - len(differing)} alike, {len(differing)} different")
    return 1 if differing else 0


def _results(classpath: str, controller: str, rest: str, names: list[str]) -> dict[str, list[str]]:
    """Outcome and time of each program, by name."""
    done = subprocess.run(
        ["java", "-cp", classpath, "compat.Main", controller, rest, *names],
        stdout=subprocess.PIPE,
        text=True,
        timeout=ALL_LIMIT_S,
        check=False,
    )
    print(done.stdout, end="")
    lines = [line.split() for line in done.stdout.splitlines()]
    return {line[1]: [line[0], *line[2:]] for line in lines if line and line[0] in ("ok", "FAILED")}


def _run_samples(cluster: StandaloneCluster, classpath: str) -> int:
    """Write an event with one sample, read it with the other, as their README says."""
    where = ["-scope", SAMPLE_SCOPE, "-name", SAMPLE_STREAM, "-uri", cluster.controller]
    event = ["-routingKey", "key", "-message", SAMPLE_EVENT]
    wrote = _sample("HelloWorldWriter", classpath, [*where, *event])
    read = _sample("HelloWorldReader", classpath, where)
    if f"Read event '{SAMPLE_EVENT}'" not in read or SAMPLE_EVENT not in wrote:
        print("FAILED: the event did not come back")
        return 1
    print("ok: the event came back")
    return 0


def _sample(name: str, classpath: str, arguments: list[str]) -> str:
    done = subprocess.run(
        ["java", QUIET, "-cp", classpath, f"{SAMPLE_PACKAGE}.{name}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=SAMPLE_LIMIT_S,
        check=True,
    )
    print(done.stdout, end="")
    return done.stdout


def _built() -> str:
    """Compile our programs; the classpath that runs them."""
    libraries = TARGET / "classpath"
    _maven("compile", "dependency:build-classpath", f"-Dmdep.outputFile={libraries}")
    return f"{TARGET / 'classes'}:{libraries.read_text().strip()}"


def _built_samples(folder: Path) -> str:
    sources = sorted((folder / SAMPLES).glob("*.java"))
    if not sources:
        sys.exit(f"no samples in {folder / SAMPLES}: is FOLDER a checkout of pravega-samples?")
    libraries = TARGET / "classpath-samples"
    _maven("-Psamples", "dependency:build-classpath", f"-Dmdep.outputFile={libraries}")
    classes = TARGET / "samples"
    classpath = libraries.read_text().strip()
    subprocess.run(["javac", "-d", classes, "-cp", classpath, *sources], check=True)
    return f"{classes}:{classpath}"


def _maven(*goals: str) -> None:
    command = ["mvn", "--quiet", "--batch-mode", "--file", JAVA / "pom.xml", *goals]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        sys.exit("Maven is missing: install it (Debian: apt install maven) and a JDK, 17 or later.")


if __name__ == "__main__":
    sys.exit(main())
