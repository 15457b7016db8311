"""The offline gate and the server: a test that relies on them must be able to fail."""


def test_requests_that_leave_this_machine_are_refused_and_recorded(page):
    page.goto("about:blank")
    refused = "'refused'"
    assert (
        page.evaluate(
            f"fetch('https://cdn.example.org/a.js').then(() => 'loaded', () => {refused})"
        )
        == "refused"
    )
    assert (
        page.evaluate(
            f"import('https://cdn.example.org/b.js').then(() => 'loaded', () => {refused})"
        )
        == "refused"
    )
    assert page.blocked == ["https://cdn.example.org/a.js", "https://cdn.example.org/b.js"]


def test_errors_of_a_page_are_recorded(page):
    page.goto("about:blank")
    page.evaluate("() => { setTimeout(() => { throw new Error('planted') }, 0) }")
    page.wait_for_timeout(200)
    assert any("planted" in error for error in page.errors)


def test_a_notebook_runs_in_jupyterlab_without_a_network(notebook, page, shots):
    notebook.write(
        "planted.ipynb", "import anomalib_nb\nanomalib_nb.__version__", "print(6 * 7)", "1 / 0"
    ).run_all()
    assert notebook.text(1) == "42\n"
    assert notebook.errors() == ["ZeroDivisionError: division by zero"]
    assert notebook.run(1) == "42\n"
    page.screenshot(path=shots / "jupyterlab.png")
    assert not page.blocked, f"JupyterLab asked the internet for {page.blocked}"
    assert not page.errors, page.errors


def test_a_kernel_reaches_this_machine_only(notebook):
    ask = "import socket\ntry:\n    socket.create_connection(('example.org', 80), 1)\nexcept OSError as error:\n    print(error)"
    assert "no network in tests" in notebook.write("offline.ipynb", ask).run_all().text(0)
