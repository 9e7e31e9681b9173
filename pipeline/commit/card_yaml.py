"""The YAML head of a dataset card: what the Hub files a dataset under, and what `datasets` needs to load it."""

import re
from itertools import chain
from typing import Any

import pyarrow as pa

from textsmooth.schemas.manifest import Manifest
from textsmooth.schemas.tasks import TASKS
from textsmooth.stages.checks.shard import expected_schema

HUB = "https://huggingface.co"
# Identifiers that the Hub has for licences (https://huggingface.co/docs/hub/repositories-licenses); any other is `other` with a name.
_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0
bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0
gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other
"""
HUB_LICENSES = frozenset(_LICENSES.split())
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B", "100B<n<1T")
TASK_CATEGORIES = {"class": "text-classification", "value": "text-classification", "span": "question-answering"}
LANGUAGE = "en"  # of every task of schemas/tasks.py


def line(text: object, most: int = 200) -> str:
    """A text on one line: white space is a space, what does not print is left out, what is too long is cut."""
    found = "".join(char for char in " ".join(str(text).split()) if char.isprintable())
    return found if len(found) <= most else f"{found[: most - 1]}…"


def head(manifest: Manifest, title: str) -> dict[str, Any]:
    """What stands in the YAML head. Nothing is said that neither the manifest nor the table of tasks knows."""
    splits = manifest.splits
    rows = {split: sum(shard.samples for shard in manifest.split(split)) for split in splits}
    sizes = {split: sum(shard.bytes for shard in manifest.split(split)) for split in splits}
    return {
        "pretty_name": line(title),
        **licenses(manifest),
        **_facts(manifest),
        "size_categories": [SIZES[max(0, min(len(str(sum(rows.values()))) - 3, len(SIZES) - 1))]],
        "tags": ["textsmooth", "text-smoothing", "knowledge-distillation"],
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": f"{split}/*.arrow"} for split in splits]}],
        "dataset_info": {
            "features": [
                {"name": field.name, **_feature(field.type, _classes(manifest, field.name))} for field in expected_schema(manifest, "", "")
            ],
            "splits": [{"name": split, "num_bytes": sizes[split], "num_examples": rows[split]} for split in splits],
            "download_size": sum(sizes.values()),
            "dataset_size": sum(sizes.values()),
        },
    }


def _facts(manifest: Manifest) -> dict[str, list[str]]:
    """language and task_categories: as the corpora's own cards have them, else the table of tasks; none where one corpus says nothing."""
    of_each = [source["corpus"] for source in manifest.sources] or [manifest.corpus]

    def said(corpus: dict[str, Any], name: str) -> list[str]:
        task = TASKS.get(corpus.get("task") or "")
        known = {"language": [LANGUAGE], "task_categories": [TASK_CATEGORIES[task.label_kind]]} if task else {}
        return [line(value, 60) for value in corpus.get("about", {}).get(name) or known.get(name, ())]

    found = {name: [said(corpus, name) for corpus in of_each] for name in ("language", "task_categories")}
    return {name: list(dict.fromkeys(chain.from_iterable(values))) for name, values in found.items() if all(values)}


def license_texts(manifest: Manifest) -> list[str | None]:
    """The licence of each corpus, None where it is unknown."""
    corpora = [source["corpus"] for source in manifest.sources] or [manifest.corpus]
    return [line(corpus["license"]) if corpus.get("license") not in (None, "unknown") else None for corpus in corpora]


def licenses(manifest: Manifest) -> dict[str, Any]:
    """license, and for one that the Hub has no identifier for, license_name and license_link: of the corpus, whose text the rows hold."""
    found = license_texts(manifest)
    if not all(found):
        return {"license": "unknown"}
    names = list(dict.fromkeys(part.strip() for text in found if text for part in text.split(",")))
    if all(name.lower() in HUB_LICENSES for name in names) and "other" not in names:
        known = [name.lower() for name in names]
        return {"license": known[0] if len(known) == 1 else known}
    about = manifest.corpus.get("about", {})
    called = line(about.get("license_name") or "", 60) or "-".join(re.findall(r"[\w.+]+", " ".join(names).lower()))[:60]
    link = _license_link(manifest.corpus)
    return {"license": "other", **({"license_name": called} if called != "other" else {}), **({"license_link": link} if link else {})}


def _license_link(corpus: dict[str, Any]) -> str | None:
    """Where the corpus's card says that its licence is: a URL, or a file of its repository on the Hub."""
    link, page = corpus.get("about", {}).get("license_link"), hub_page(corpus, "datasets/")
    if not link or re.fullmatch(r"https?://[^\s<>\"'()\[\]\\]+", link):
        return link or None
    file = re.fullmatch(r"(?:\./)?([\w.-]+(?:/[\w.-]+)*)", link)
    inside = file and ".." not in file[1].split("/")
    return f"{page.replace('/tree/', '/blob/')}/{file[1]}" if page and file and inside else None


def hub_page(identity: dict[str, Any], kind: str = "") -> str | None:
    """Where people find a corpus (kind `datasets/`) or model on the Hub, at its commit; None for one that is not from there."""
    name = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?::.*)?", identity["name"])
    revision = identity.get("revision")
    return f"{HUB}/{kind}{name[1]}/tree/{revision}" if name and revision and re.fullmatch(r"[0-9a-f]{40}", revision) else None


def _classes(manifest: Manifest, column: str) -> list[str] | None:
    names = manifest.corpus["label_names"] if column == "label" and manifest.corpus["label_kind"] == "class" else None
    return list(map(str, names)) if names and len(set(names)) == len(names) else None


def _feature(kind: pa.DataType, classes: list[str] | None = None) -> dict[str, Any]:
    """A type as `datasets` writes it in YAML."""
    if classes:
        return {"dtype": {"class_label": {"names": {str(number): name for number, name in enumerate(classes)}}}}
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _feature(kind.value_type)
        listed = inner["dtype"] if list(inner) == ["dtype"] else inner["struct"] if list(inner) == ["struct"] else inner
        return {"list": listed, **({"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {})}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.type)} for field in kind]}
    return {"dtype": {"double": "float64", "float": "float32", "halffloat": "float16"}.get(str(kind), str(kind))}
