"""The Helm chart, rendered by Helm's own engine, as a library of PyPI; runs with the Python that has it (ORCHESTRATION of `run`).

    chart.py          reads a list of releases {"values": …, "name": …, "namespace": …} as JSON, and prints for each its manifests, with the
                      problems that Kubernetes' schemas have with them, or why Helm refuses the values
    chart.py --lint   prints what Helm has to say about the chart
    chart.py --write  writes config/kubernetes
"""

import json
import sys
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import yaml

CONFIG = Path(__file__).resolve().parents[2] / "config"
CHART = CONFIG / "helm" / "remora"

# The oldest Kubernetes that is tried, and the newest that the schemas know.
VERSIONS = ("1.27", "1.37")

# What the files in config/kubernetes are rendered with.
PLAIN = {
    "deployment.yaml": {"serviceMonitor": {"enabled": True}},
    "daemonset.yaml": {"serviceMonitor": {"enabled": True}, "workload": "DaemonSet"},
}


def render(values, name="remora", namespace="mqtt"):
    """The text of each template that has one."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=name, namespace=namespace)
    return {path.rsplit("/", 1)[1]: text.strip() for path, text in sorted(rendered.items()) if text.strip()}


def answer(release):
    try:
        texts = render(**release)
        notes = texts.pop("NOTES.txt", "")
        manifests = [document for text in texts.values() for document in yaml.load_all(text, Loader=_Strict)]
    except (helm.HelmError, yaml.YAMLError) as refused:
        return {"refused": str(refused)}
    problems = [problem for manifest in manifests for problem in problems_of(manifest)]
    return {"manifests": manifests, "problems": problems, "notes": notes}


class _Strict(yaml.SafeLoader):
    """A key that is there twice is an error, as it is for Kubernetes."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"{', '.join(sorted(twice))} is there twice")
        return super().construct_mapping(node, deep)


def problems_of(manifest):
    # That of the Prometheus operator, whose schema is not Kubernetes' own.
    if manifest["kind"] == "ServiceMonitor":
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{manifest['kind']} {manifest['metadata']['name']}, Kubernetes {version}: {error.message}"


def plain(values):
    texts = [text for path, text in render(values).items() if path != "NOTES.txt"]
    head = "# Written from the chart in config/helm by tests/interop/chart.py: change that, not this. docs/kubernetes.md explains it.\n"
    return head + "\n---\n".join(line for line in texts) + "\n"


def main():
    if sys.argv[1:] == ["--write"]:
        (CONFIG / "kubernetes").mkdir(exist_ok=True)
        for name, values in PLAIN.items():
            (CONFIG / "kubernetes" / name).write_text(plain(values))
    elif sys.argv[1:] == ["--lint"]:
        print(json.dumps(helm.lint(str(CHART))))
    else:
        answers = [answer(release) for release in json.load(sys.stdin)]
        print(json.dumps({"answers": answers, "plain": {name: plain(values) for name, values in PLAIN.items()}}))


if __name__ == "__main__":
    main()
