"""A client that sends its config as a Python literal and names no catalogue."""

import time

import requests


class STDWebClient(requests.Session):
    """Requests to one API."""

    def __init__(self, api: str, username: str, password: str) -> None:
        super().__init__()
        self.api = api
        token = self.post(f"{api}/auth/token/", data={"username": username, "password": password}).json()["token"]
        self.headers["Authorization"] = f"Token {token}"

    def ask(self, method: str, path: str, **options) -> requests.Response:
        answer = self.request(method, f"{self.api}/tasks/{path}", timeout=60, **options)
        answer.raise_for_status()
        return answer

    def get_preview(self, task_id: int, filename: str = "image.fits", **params: str | float) -> bytes:
        return self.ask("GET", f"{task_id}/preview/{filename}", params=params).content


if __name__ == "__main__":
    session = STDWebClient("http://localhost:8000/api", "myuser", "mypass")
    with open("observation.fits", "rb") as image:
        task = session.ask("POST", "", files={"file": image}, data={"config": str({"filter": "R"})}).json()["id"]
    session.ask("POST", f"{task}/process/", json={"steps": ["inspect", "photometry"]})
    while "running" in (result := session.ask("GET", f"{task}/").json())["state"]:
        time.sleep(1)
    print(f"Completed with state: {result['state']}")
    print(f"Zero point: {result['config'].get('zp')}")
    with open("objects.vot", "wb") as table:
        table.write(session.ask("GET", f"{task}/files/objects.vot").content)
