#!/bin/sh
# A gradient with curl and nothing else: curl_json.sh http://127.0.0.1:3000/gradient
curl --silent --show-error --fail-with-body --max-time 60 "$1" \
  --header 'content-type: application/json' \
  --header 'accept: application/json' \
  --data "@$(dirname "$0")/tiny.json"
