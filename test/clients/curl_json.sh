#!/bin/sh
# A gradient with curl and nothing else: curl_json.sh http://127.0.0.1:3000/gradient
curl --silent --show-error --fail-with-body --max-time 60 "$1" \
  --header 'content-type: application/json' \
  --header 'accept: application/json' \
  --data '{
    "hidden_states": [[1, 0.5], [0.25, -1], [-0.5, 0.75]],
    "q_proj": {"weight": [[0.5, -0.25], [1, 0.5]], "lora_A": [[0.5, 1]], "lora_B": [[0.25], [-0.5]]},
    "k_proj": {"weight": [[0.75, 0.5], [-0.5, 1]]},
    "v_proj": {"weight": [[1, -0.5], [0.5, 0.25]], "lora_A": [[-1, 0.5]], "lora_B": [[0.5], [0.75]],
               "lora_alpha": 2},
    "target": [[0.5, 0], [0, 0.5], [1, -1]]
  }'
