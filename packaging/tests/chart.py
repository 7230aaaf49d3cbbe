"""Prints the resources of a rendered chart but those whose schemas Kubernetes itself does not have."""

import sys

import yaml

OTHERS = ("monitoring.coreos.com/", "trust.cert-manager.io/")
resources = [resource for resource in yaml.safe_load_all(open(sys.argv[1])) if resource]
print(yaml.safe_dump_all(resource for resource in resources if not resource["apiVersion"].startswith(OTHERS)))
