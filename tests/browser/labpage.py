"""A notebook in JupyterLab as a reader has it on the screen. `notebook = LabPage(page, lab).open("tutorials/x.ipynb")`."""

from servers import Lab

CELLS = "jupyterapp.shell.currentWidget.content.model.cells"
KERNEL = "window.jupyterapp && window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.connectionStatus === 'connected'"

KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}  # else Lab asks


class LabPage:
    "One notebook, open in one browser page."

    def __init__(self, page, lab: Lab):
        self.page, self.lab = page, lab

    def open(self, path: str) -> "LabPage":
        "Open a notebook, given from nbs/, and wait for its kernel."
        self.page.goto(f"{self.lab.url}/lab/tree/{path}?token={self.lab.token}&reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        self.page.wait_for_function(KERNEL)
        return self

    def write(self, name: str, *sources: str) -> "LabPage":
        "Write a notebook of these code cells into the served folder, and open it."
        import nbformat

        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC})
        nbformat.write(notebook, self.lab.folder / "nbs" / name)
        return self.open(name)

    def run_all(self, wait: bool = True) -> "LabPage":
        "Run every cell; with `wait`, until the last one is done."
        start = "jupyterapp.commands.execute('notebook:run-all-cells')"
        self.page.evaluate(f"async () => {{ await {start} }}" if wait else f"() => {{ {start} }}")
        return self

    def run(self, cell: int) -> str:
        "Run one cell (-1 is the last), and what it printed."
        self.page.evaluate(
            f"""async at => {{ const book = jupyterapp.shell.currentWidget.content;
                book.activeCellIndex = at < 0 ? {CELLS}.length + at : at; book.deselectAll();
                await jupyterapp.commands.execute('notebook:run-cell') }}""",
            cell,
        )
        return self.text(cell)

    def outputs(self, cell: int) -> list[dict]:
        "A cell's outputs, from the notebook itself: what is off the screen is not in the page."
        return self.page.evaluate(
            f"at => {{ const cells = {CELLS}; return cells.get(at < 0 ? cells.length + at : at).outputs?.toJSON() ?? [] }}",
            cell,
        )

    def text(self, cell: int) -> str:
        "What a cell printed."
        return "".join(
            part if isinstance(part := o.get("text", ""), str) else "".join(part)
            for o in self.outputs(cell)
        )

    def errors(self) -> list[str]:
        "The errors of all cells."
        size = self.page.evaluate(f"() => {CELLS}.length")
        return [
            f"{o['ename']}: {o['evalue']}"
            for i in range(size)
            for o in self.outputs(i)
            if o["output_type"] == "error"
        ]
