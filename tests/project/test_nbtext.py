"""The text <-> notebook tool: identity, id stability, determinism, output handling."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import nbtext as nt
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "nbtext.py"

SOURCES = [
    ("markdown", "# Title\n\n> What it is"),
    ("code", "#| default_exp models.core"),
    ("code", '#| export\ndef add(a, # first\n        b=2):\n    "Add"\n    return a+b'),
    ("markdown", '## Maths: $\\alpha$\n\n```python\n# %% not a marker\n"""\n```\n"""'),
    ("code", '# %% looks like a marker\n# \\%% and this is already escaped\ns = """\nx\n"""'),
    ("raw", "---\nskip_exec: true\n---"),
    ("markdown", ""),
    ("code", ""),
    ("code", 'a = "form\x0cfeed \u2028 unicode é 漢"'),
    ("code", "assert add(1) == 3"),
    ("code", 'print("hi")'),
]


def mk():
    nb = nt.blank()
    for i, (t, s) in enumerate(SOURCES):
        c = dict(cell_type=t, id=f"{i:08x}", metadata={}, source=s)
        if t == "code":
            c.update(outputs=[], execution_count=None)
        nb["cells"].append(c)
    nb["cells"][-1]["outputs"] = [dict(output_type="stream", name="stdout", text="hi\n")]
    nb["cells"][9]["metadata"] = {"tags": ["skip-execution"]}
    return nb


@pytest.fixture
def repo(tmp_path, monkeypatch):
    (tmp_path / "nbs/models").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.nbdev]\n[project]\nname="anomalib_nb"\n')
    (tmp_path / "nbs/models/00_core.ipynb").write_text(nt.dump(mk()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nb(repo):
    return nt.load(repo / "nbs/models/00_core.ipynb")


def shadow(repo):
    return repo / ".nbtext/models/00_core.py"


def ids(n):
    return [c["id"] for c in n["cells"]]


def edit(repo, change):
    "Change the text, put it back"
    nt.main(["get"])
    text = shadow(repo)
    text.write_text(change(text.read_text()))
    nt.main(["put"])
    return nb(repo)


def test_text_round_trip_is_identity():
    n = mk()
    head, cells = nt.from_text(nt.to_text(n, "nbs/x.ipynb"), "x")
    assert [(c["cell_type"], c["source"], c["metadata"], c["id"]) for c in cells] == [
        (c["cell_type"], c["source"], c["metadata"], c["id"]) for c in n["cells"]
    ]
    assert head == ["nbs/x.ipynb", nt.state(n)]


def test_get_put_leaves_bytes_alone(repo):
    f = repo / "nbs/models/00_core.ipynb"
    before = f.read_bytes()
    nt.main(["get"])
    nt.main(["put"])
    assert f.read_bytes() == before


def test_same_bytes_as_nbdev_clean(repo):
    from fastcore.nbio import nb2str, read_nb

    f = repo / "nbs/models/00_core.ipynb"
    assert nb2str(read_nb(f)) == f.read_text()


def test_edit_keeps_ids_and_drops_only_that_output(repo):
    n = edit(repo, lambda s: s.replace('"Add"', '"Add two"'))
    assert ids(n) == ids(mk()) and "Add two" in n["cells"][2]["source"]
    assert n["cells"][-1]["outputs"], "output of an unchanged cell stays"
    n = edit(repo, lambda s: s.replace('print("hi")', 'print("ho")'))
    assert not n["cells"][-1]["outputs"], "output of a changed cell goes"


def test_diff_of_a_one_line_edit_is_one_line(repo):
    f = repo / "nbs/models/00_core.ipynb"
    a = f.read_text().splitlines()
    edit(repo, lambda s: s.replace("    return a+b", "    return b+a"))
    b = f.read_text().splitlines()
    assert len(a) == len(b) and sum(x != y for x, y in zip(a, b)) == 1


def test_new_cells_get_the_same_id_every_time(repo):
    def ins(s):
        return s.replace(
            "# %% 00000009",
            '# %% [md]\n"""\n## New\n"""\n\n# %%\n#| export\ndef new(): pass\n\n# %% 00000009',
        )

    f = repo / "nbs/models/00_core.ipynb"
    orig = f.read_text()
    one = edit(repo, ins)
    f.write_text(orig)
    nt.main(["get", "--force"])
    two = edit(repo, ins)
    assert one == two and len(one["cells"]) == len(SOURCES) + 2
    assert "# %% " + one["cells"][10]["id"] in shadow(repo).read_text(), (
        "the id is written back into the text"
    )


def test_move_delete_paste(repo):
    def move(s):
        a, b = s.index("# %% 00000002"), s.index("# %% [md] 00000003")
        return s[:a] + s[b:].rstrip("\n") + "\n\n" + s[a:b]

    n = edit(repo, move)
    assert sorted(ids(n)) == sorted(ids(mk())) and ids(n)[-1] == "00000002"
    n = edit(repo, lambda s: s[: s.index("# %% 00000002")])
    assert "00000002" not in ids(n)
    n = edit(repo, lambda s: s + "\n# %% 00000001\n#| hide\nx = 1\n")
    assert len(set(ids(n))) == len(ids(n)), "a pasted marker does not make a duplicate id"


def test_file_rewritten_without_ids_keeps_them(repo):
    n = edit(
        repo,
        lambda s: re.sub(r"^(# %%(?: \[\w+\])?) \w{8}", r"\1", s, flags=re.M).replace(
            '"Add"', '"Add two"'
        ),
    )
    assert ids(n) == ids(mk())


def test_new_notebook_from_text(repo):
    s = repo / ".nbtext/data/00_io.py"
    s.parent.mkdir(parents=True)
    s.write_text(
        "# %% [md]\n# # IO\n#\n# > reads\n\n# %%\n#| default_exp data.io\n"
    )  # jupytext-style markdown is read too
    nt.main(["put", str(s)])
    n = nt.load(repo / "nbs/data/00_io.ipynb")
    assert (
        n["cells"][0]["source"] == "# IO\n\n> reads"
        and n["metadata"]["kernelspec"]["name"] == "python3"
    )


def test_notebook_changed_elsewhere_is_not_overwritten(repo):
    nt.main(["get"])
    s = shadow(repo)
    s.write_text(s.read_text().replace('"Add"', '"Mine"'))
    n = nb(repo)
    n["cells"][2]["source"] += "\n# from Jupyter"
    (repo / "nbs/models/00_core.ipynb").write_text(nt.dump(n))
    with pytest.raises(SystemExit):
        nt.main(["put"])
    with pytest.raises(SystemExit):
        nt.main(["get"])
    assert "from Jupyter" in nb(repo)["cells"][2]["source"]


def output(**data):
    return {
        "output_type": "execute_result",
        "execution_count": 3,
        "metadata": {"needs_background": "light"},
        "data": data,
    }


PNG = output(
    **{
        "image/png": "iVBO\n",
        "image/jpeg": "/9j/",
        "text/plain": ["<PIL.Image.Image at 0x7f0011223344>"],
    }
)
TEXT = output(**{"text/plain": ["3"]})
WIDGET = output(
    **{"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "Slider"}
)
BOKEH = output(**{"text/html": ["<div data-root-id='p1'>", "</div>"]})
SAID = {"output_type": "stream", "name": "stdout", "text": ["hi\n"]}
WARNED = {"output_type": "stream", "name": "stderr", "text": ["UserWarning\n"]}
PROGRESS = {"output_type": "stream", "name": "stdout", "text": ["10%\r20%\r"]}
ALL = [PNG, TEXT, WIDGET, BOKEH, SAID, WARNED, PROGRESS]


def with_outputs(repo, name, outputs):
    n = mk()
    n["cells"][-1]["outputs"] = copy.deepcopy(outputs)
    n["metadata"]["language_info"] = {"version": "3.11.7"}
    path = repo / "nbs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(nt.dump(n))
    return path


@pytest.mark.parametrize(
    "name, kept",
    [
        ("models/00_core.ipynb", ["image/png"]),
        ("tutorials/00_t.ipynb", ["image/png", "text/plain", "stdout"]),
        ("index.ipynb", ["image/png", "text/plain", "stdout"]),
    ],
)
def test_clean_keeps_what_the_policy_keeps(repo, name, kept):
    path = with_outputs(repo, name, ALL)
    assert nt.main(["check", str(path)]) == 1
    nt.main(["clean", str(path)])
    assert nt.main(["check", str(path)]) == 0
    n = nt.load(path)
    assert [o.get("name") or ",".join(o["data"]) for o in n["cells"][-1]["outputs"]] == kept
    assert "language_info" not in n["metadata"] and "0x7f" not in path.read_text()


@pytest.mark.parametrize(
    "planted",
    [
        [output(**{"text/plain": ["<Model at 0x7f0011223344>"]})],
        [{"output_type": "error", "ename": "ValueError", "evalue": "x", "traceback": []}],
        [output(**{"image/png": "x" * 300_000})],
    ],
    ids=["a memory address", "an error", "300 kB"],
)
def test_check_finds_what_clean_must_not_hide(repo, planted):
    path = with_outputs(repo, "tutorials/00_t.ipynb", planted)
    n = nt.load(path)
    n["metadata"].pop("language_info")
    for o in n["cells"][-1]["outputs"]:
        o.update({"execution_count": None, "metadata": {}} if "data" in o else {})
    path.write_text(nt.dump(n))
    assert nt.main(["check", str(path)]) == 1


def test_bad_marker_is_an_error(repo):
    nt.main(["get"])
    s = shadow(repo)
    s.write_text(s.read_text() + "\n# %% [python] oops oops\n")
    with pytest.raises(SystemExit):
        nt.main(["put"])


def test_runs_as_a_script(repo):
    out = subprocess.run(
        [sys.executable, str(TOOL), "ls"], capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[0].startswith("00000000 m # Title")
