"""Servers for the browser tests: JupyterLab on a copy of the book, or any command that answers a URL."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_S, STOP_S = 120, 10


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            reply.read()
        return True
    except (urllib.error.URLError, OSError):
        return False


class Server:
    "A process that answers `url` before it is used, and is stopped with its children after."

    def __init__(self, command: list[str], url: str, cwd: Path, env: dict, log: Path):
        self.log, begin = open(log, "w"), time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while not answers(url):
            ended, late = self.process.poll() is not None, time.monotonic() - begin > START_S
            if ended or late:
                self.stop()
                raise RuntimeError(
                    f"{command[2]} {'ended' if ended else 'is too slow'}:\n{log.read_text()[-2000:]}"
                )
            time.sleep(0.1)

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)  # a session of its own: kernels end too
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.log.close()


class Lab(Server):
    "JupyterLab in a folder with nobody's configuration; its kernels reach this machine only."

    def __init__(self, folder: Path):
        self.folder, self.token, port = folder, "reader", free_port()
        self.url = f"http://127.0.0.1:{port}"
        for name in ("nbs", "settings.ini"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)  # Lab saves by itself
        no_news(folder / ".settings")
        command = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--ip=127.0.0.1",
            f"--port={port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={folder / 'nbs'}",
            "--expose-app-in-browser",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.extension_manager=readonly",
            "--ServerApp.terminals_enabled=False",
            *(["--allow-root"] if os.geteuid() == 0 else []),
        ]
        super().__init__(
            command,
            f"{self.url}/api/status?token={self.token}",
            folder,
            environment(folder),
            folder / "lab.log",
        )


def environment(folder: Path) -> dict:
    "The variables of a person without settings, and without a network."
    jupyter = {
        "JUPYTER_CONFIG_DIR": ".config",
        "JUPYTER_DATA_DIR": ".data",
        "JUPYTER_RUNTIME_DIR": ".run",
        "JUPYTERLAB_WORKSPACES_DIR": ".workspaces",
        "JUPYTERLAB_SETTINGS_DIR": ".settings",
    }
    own = {name: str(folder / place) for name, place in jupyter.items()}
    return {
        **os.environ,
        **own,
        "HOME": str(folder),
        "JUPYTER_NO_CONFIG": "1",
        "PANEL_INLINE": "true",
        "PYTHONPATH": str(ROOT / "tests" / "offline"),
    }


def no_news(settings: Path):
    "Switch off JupyterLab's question about news, which no flag does."
    note = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    note.parent.mkdir(parents=True)
    note.write_text('{"fetchNews": "false", "checkForUpdates": false, "doNotDisturbMode": true}')
