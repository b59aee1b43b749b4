"""Runs Java programs on the official client against a cluster that is started for them.

    python tests/compat/run_java.py programs [NAME…]    our own, in tests/compat/java
    python tests/compat/run_java.py samples FOLDER      HelloWorldWriter and HelloWorldReader

`make test-java` and `make test-samples` call it. Needs a JDK (17) and Maven, which fetches the
client. The samples are those of Pravega: FOLDER is a checkout of theirs, compiled where it is.
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
sys.path.insert(0, str(HERE.parent / "e2e"))

from helpers.cluster import StandaloneCluster  # noqa: E402 - needs the path above

SAMPLES = Path("pravega-client-examples/src/main/java/io/pravega/example/gettingstarted")
SAMPLE_PACKAGE = "io.pravega.example.gettingstarted"
SAMPLE_SCOPE, SAMPLE_STREAM, SAMPLE_EVENT = "examples", "helloStream", "hello anabranch"
QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
ALL_LIMIT_S = 900.0
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
    arguments = parser.parse_args()
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
