"""Includes point down: a folder of sources includes only what the picture in docs/ARCHITECTURE.md puts beneath it."""

import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Folder under src/ -> folders under src/ it may include from, besides itself.
BENEATH = {
    "base": set(),
    "formats": {"base"},
    "kernels": {"base"},
    "template": {"base", "formats"},
    "tokenizer": {"base", "formats", "template"},
    "constraint": {"base", "formats"},
    "cache": {"base", "kernels"},
    "attention": {"base", "kernels", "cache"},
    "model": {"base", "formats", "kernels", "cache", "attention"},
    "eval": {"base", "formats"},
    "hub": {"base", "formats"},
    "engine": {"base", "formats", "kernels", "cache", "attention", "model", "template", "tokenizer",
               "constraint"},
}
# These see the public headers, their own folder, base, and what stands here: the server reads JSON from strangers.
FRONT = {"apps": {"eval", "server"}, "src/server": {"formats"}}
ENGINE_ONLY = "shadowkv/shadowkv.h"  # of the public headers; the others are plain data that every layer may use
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
SUFFIXES = {".h", ".cc", ".cu", ".cuh"}


def includes_of(text: str) -> list:
    return INCLUDE.findall(text)


def layer_complaint(layer: str, include: str):
    """Why a source of src/<layer>/ may not include `include`; None if it may."""
    if ".." in pathlib.PurePosixPath(include).parts:
        return "climbs with .."
    folder = include.split("/", 1)[0]
    if folder == "shadowkv":
        return "belongs to the engine" if include == ENGINE_ONLY and layer != "engine" else None
    if folder in BENEATH:
        return None if folder == layer or folder in BENEATH[layer] else f"is not beneath {layer}"
    return "names no folder under src/"


def front_complaint(front: str, include: str):
    """The same for a source of one of FRONT."""
    own = pathlib.PurePosixPath(front).name
    folder = include.split("/", 1)[0]
    if ".." in pathlib.PurePosixPath(include).parts:
        return "climbs with .."
    seen = {"shadowkv", "base", own} | FRONT[front]
    return None if folder in seen or "/" not in include else "is inside the library"


def sources(folder: str) -> list:
    return sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES)


def complaints_in(folder: str, judge) -> list:
    found = []
    for path in sources(folder):
        for include in includes_of(path.read_text(encoding="utf-8")):
            if complaint := judge(include):
                found.append(f"{path.relative_to(ROOT)} includes {include}, which {complaint}")
    return found


class IncludeOrder(unittest.TestCase):
    def test_every_folder_under_src_has_its_place(self):
        folders = {path.name for path in (ROOT / "src").iterdir() if path.is_dir()}
        self.assertLessEqual(folders, set(BENEATH) | {"server"})
        self.assertIn("base", folders)

    def test_the_picture_has_no_cycle(self):
        for layer, beneath in BENEATH.items():
            for lower in beneath:
                self.assertLessEqual(BENEATH[lower], beneath, f"{layer} above {lower}")
                self.assertNotIn(layer, BENEATH[lower])

    def test_layers_include_only_what_is_beneath_them(self):
        found = []
        for layer in BENEATH:
            found += complaints_in(f"src/{layer}", lambda include, layer=layer: layer_complaint(layer, include))
        self.assertEqual(found, [])

    def test_front_ends_see_the_public_headers_alone(self):
        found = []
        for folder in FRONT:
            found += complaints_in(folder, lambda include, folder=folder: front_complaint(folder, include))
        self.assertEqual(found, [])

    def test_public_headers_include_public_headers_alone(self):
        self.assertEqual(
            complaints_in("include", lambda include: None if include.startswith("shadowkv/") else "is not public"), [])

    def test_the_judge_sees_what_it_should(self):
        self.assertIsNone(layer_complaint("attention", "kernels/kernels.h"))
        self.assertIsNotNone(layer_complaint("kernels", "attention/attention.h"))
        self.assertIsNotNone(layer_complaint("model", "tokenizer/tokenizer.h"))
        self.assertIsNotNone(layer_complaint("cache", "../base/check.h"))
        self.assertIsNotNone(layer_complaint("model", "shadowkv/shadowkv.h"))
        self.assertIsNotNone(front_complaint("apps", "engine/engine.h"))
        self.assertIsNone(front_complaint("apps", "shadowkv/shadowkv.h"))
        self.assertIsNone(front_complaint("src/server", "formats/json.h"))
        self.assertIsNotNone(front_complaint("src/server", "engine/model_service.h"))
        self.assertEqual(includes_of('#include <vector>\n  #  include "base/check.h"\n'), ["base/check.h"])


if __name__ == "__main__":
    unittest.main()
