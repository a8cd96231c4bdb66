"""Model card and table of a search: what stands beside the weights of its front, from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchbench.core.search_result import EAGER, FILES, family_of, ordered, runtime_of
from benchbench.core.units import counted, format_shape, format_value
from benchbench.report import writers

COLUMNS = (
    "name",
    "front",
    "keeps_budget",
    "dice_val",
    "dice_test",
    "dice_test_low",
    "dice_test_high",
    "seeds",
    "params",
    "macs",
    "latency_s",
    "latency_origin",
    "runtime",
    "memory_bytes",
    "energy_j",
    "scratch_dice_test",
    "published_dice_test",
    "scaled_dice_test",
    "random_dice_test",
    "weights",
    "onnx",
    "runtime_file",
    "config",
)


def search_table(search: Mapping[str, Any]) -> str:
    """`front.csv`: every finalist, those of the front first, with the Dice of the controls."""
    rows = []
    for point in ordered(search["points"]):
        low, high = point["dice_test"]["ci95"]
        costs = point["costs"]
        controls = {c["kind"]: c["other_dice"] for c in search.get("comparisons", ()) if c["point"] == point["name"]}
        rows.append(
            {
                **{key: point[key] for key in ("name", "front")},
                "keeps_budget": {True: "yes", False: "no", None: "not measured"}[point["keeps"]],
                "dice_val": point["dice_val"]["mean"],
                "dice_test": point["dice_test"]["mean"],
                "dice_test_low": low,
                "dice_test_high": high,
                "seeds": len(point["dice_val"]["values"]),
                **{key: costs.get(key) for key in ("params", "macs", "latency_s", "memory_bytes", "energy_j")},
                "latency_origin": point["origin"],
                "runtime": runtime_of(search)["name"],
                **{f"{kind}_dice_test": controls.get(kind) for kind in ("scratch", "published", "scaled", "random")},
                **{key: point["files"].get(key) for key in FILES},
                "config": point["config_text"],
            }
        )
    return writers.to_csv(COLUMNS, rows)


def search_card(point: Mapping[str, Any], search: Mapping[str, Any]) -> str:
    """The model card of a point, as Markdown."""
    task, test, files = search["task"], point["dice_test"], point["files"]
    splits = search["data"]["splits"]
    channels = counted(task["in_channels"], "channel")
    low, high = test["ci95"]
    costs = point["costs"]
    rows = [
        ("Dice on val", f"{point['dice_val']['mean']:.3f}, mean of {len(point['dice_val']['values'])} seeds; watched"),
        ("Dice on test", f"{test['mean']:.3f} (95 % interval over {test['cases']} cases {low:.3f} to {high:.3f})"),
        ("of these weights", f"{test['best']:.3f} (the seed with the best Dice on val)"),
        ("parameters", format_value(costs["params"], "parameters")),
        ("MACs of one patch", format_value(costs["macs"], "MAC")),
        ("padding", f"{point.get('padding', 0.0):.0%} of the voxels that it computes on"),
    ]
    for metric, title, unit in (
        ("latency_s", "latency of one patch" if task["phase"] == "infer" else "one training step", "s"),
        ("memory_bytes", "peak memory", "B"),
        ("energy_j", "energy of one patch", "J"),
    ):
        if costs.get(metric) is not None:
            where = f"{point['origins'][metric]} on {search['device']['name']} in {runtime_of(search)['title']}"
            rows.append((title, f"{format_value(costs[metric], unit)}, {where}"))
    for limit, share in point["use"].items():
        rows.append((f"of the budget {limit}", f"{share:.0%}"))
    onnx = (
        f"`{files['onnx']}`, which differs from the network by {files['onnx_error']:.0e} of the largest logit"
        if files.get("onnx")
        else f"none: {files.get('onnx_reason')}"
    )
    verdicts = [f"- {text}." for text in point["verdicts"]]
    if missing := search.get("not_run"):
        verdicts.append(
            f"- Not run: {'; '.join(missing)}. 'bench search --resume' of its folder with --controls does it."
        )
    config = "\n".join(f"    {key}: {value}" for key, value in sorted(point["config"].items()))
    return f"""# {point["name"]}

A {family_of(search)["one"]} found by `bench search` under the budget {search["budget_text"]}.

## Use

```python
import benchbench

model = benchbench.build_model("{files["weights"]}").eval()  # {channels} of {format_shape(task["spatial"])}
```

ONNX: {onnx}.
{_runtime_lines(search, files)}
## Data

{search["data"]["title"]}. Trained on {splits["train"]} cases of {task["key"]}; {splits["val"]} were watched to choose,
{splits["test"]} were kept apart for the figures below. Licence of the data: {search["data"]["licence"]}.

## Figures

| what | value |
|---|---|
{chr(10).join(f"| {name} | {value} |" for name, value in rows)}

## Origin

{_origin(point, search)}

{chr(10).join(verdicts)}

Configuration:

{config}

## Limits

Not a medical device. Evaluated only on the data above, at one patch, spacing and protocol; other scanners, sites and
diseases were not evaluated. The costs are those of one machine.
"""


def _origin(point: Mapping[str, Any], search: Mapping[str, Any]) -> str:
    """Where the weights of a point come from, for a card."""
    text = f"{point['train_s']:.0f} s of training in all"
    if (parent := search["parent"]) and point["inherited"]:
        dice = "unknown" if parent["dice_val"] is None else f"{parent['dice_val']:.3f}"
        trained = "trained elsewhere" if parent["train_s"] is None else f"{parent['train_s']:.0f} s of training"
        return (
            f"{point['inherited']:.0%} of its first weights are from a parent ({parent['model']}, Dice {dice} on val, "
            f"{trained}); then {text}."
        )
    return f"Trained from scratch: {text}."


def _runtime_lines(search: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """What the runtime of a search reads, for a card; empty where it runs the network itself."""
    runtime = runtime_of(search)
    if runtime["name"] == EAGER["name"]:
        return ""
    what = f"\nThe costs below are of {runtime['title']}"
    made_by = ", ".join(f"{package} {version}" for package, version in runtime["versions"].items())
    if files.get("runtime_file"):
        what += f" ({made_by}), which reads `{files['runtime_file']}`; its description lies beside it"
    elif files.get("runtime_file_reason"):
        what += f" ({made_by}); its file is missing: {files['runtime_file_reason']}"
    return f"{what}.\n"
