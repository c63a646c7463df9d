#!/bin/bash
# A client in shell: upload, process, wait, list, download.
api=http://localhost:8000/api
token=$(curl -sS -d username=myuser -d password=mypass "$api/auth/token/" | jq -r .token)
auth="Authorization: Token $token"
task=$(curl -sS -H "$auth" -F file=@observation.fits -F 'config={"filter":"R","cat_name":"ps1"}' "$api/tasks/" | jq -r .id)
curl -sS -H "$auth" -H 'Content-Type: application/json' -d '{"steps":["inspect","photometry"]}' "$api/tasks/$task/process/"
state=running
while [[ $state == *running* ]]; do
    sleep 1
    state=$(curl -sS -H "$auth" "$api/tasks/$task/" | jq -r .state)
    echo "State: $state"
done
curl -sS -H "$auth" "$api/tasks/$task/files/" | jq .
curl -sS -H "$auth" -o objects.vot "$api/tasks/$task/files/objects.vot"
curl -sS -H "$auth" -o preview.jpg "$api/tasks/$task/preview/image.fits?width=1024"
