"""A client with plain requests: upload, process, wait, list, download."""

import time

import requests

API = "http://localhost:8000/api"

answer = requests.post(f"{API}/auth/token/", data={"username": "myuser", "password": "mypass"}, timeout=60)
headers = {"Authorization": f"Token {answer.json()['token']}"}

with open("observation.fits", "rb") as image:
    upload = {"file": ("observation.fits", image, "application/fits")}
    config = {"config": '{"filter": "R", "cat_name": "ps1"}'}
    task = requests.post(f"{API}/tasks/", headers=headers, files=upload, data=config, timeout=60).json()
url = f"{API}/tasks/{task['id']}/"
requests.post(f"{url}process/", headers=headers, json={"steps": ["inspect", "photometry"]}, timeout=60)

while "running" in (task := requests.get(url, headers=headers, timeout=60).json())["state"]:
    time.sleep(1)
print(f"State: {task['state']}")
print("Files:", [entry["name"] for entry in requests.get(f"{url}files/", headers=headers, timeout=60).json()])
with open("objects.vot", "wb") as table:
    table.write(requests.get(f"{url}files/objects.vot", headers=headers, timeout=60).content)
with open("preview.jpg", "wb") as picture:
    options = {"width": 1024, "stretch": "log"}
    picture.write(requests.get(f"{url}preview/image.fits", headers=headers, params=options, timeout=60).content)
print(f"Zero point: {task['config'].get('zp')}")
print(f"FWHM: {task['config'].get('fwhm')}")
