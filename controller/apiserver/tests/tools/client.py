"""Lists, pages, watches and patches with the official Python client; prints `done` when all of it held."""

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

config.load_kube_config()
core = client.CoreV1Api()


def config_map(name, value):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"set": "a"}), data={"key": value})


for index in range(7):
    core.create_namespaced_config_map("default", config_map(f"map-{index}", "0"))

names, token = [], None
while True:
    page = core.list_namespaced_config_map("default", label_selector="set=a", limit=3, _continue=token)
    names += [item.metadata.name for item in page.items]
    token = page.metadata._continue
    if not token:
        break
assert names == [f"map-{index}" for index in range(7)], names

start = core.list_namespaced_config_map("default").metadata.resource_version
core.patch_namespaced_config_map("map-0", "default", {"data": {"key": "1"}})
core.patch_namespaced_config_map("map-1", "default", [{"op": "replace", "path": "/data/key", "value": "2"}])
core.delete_namespaced_config_map("map-2", "default")

seen, resume = [], None
stream = watch.Watch()
for event in stream.stream(core.list_namespaced_config_map, "default", resource_version=start, timeout_seconds=20):
    seen.append((event["type"], event["object"].metadata.name))
    resume = resume or event["object"].metadata.resource_version
    if len(seen) == 3:
        stream.stop()
assert seen == [("MODIFIED", "map-0"), ("MODIFIED", "map-1"), ("DELETED", "map-2")], seen

# A watch resumes after the first of them and gives the others again.
again = []
stream = watch.Watch()
for event in stream.stream(core.list_namespaced_config_map, "default", resource_version=resume, timeout_seconds=20):
    again.append((event["type"], event["object"].metadata.name))
    if len(again) == 2:
        stream.stop()
assert again == seen[1:], again

stale = core.read_namespaced_config_map("map-0", "default")
core.patch_namespaced_config_map("map-0", "default", {"data": {"key": "3"}})
try:
    core.replace_namespaced_config_map("map-0", "default", stale)
    raise AssertionError("a stale replace went through")
except ApiException as error:
    assert error.status == 409, error

try:
    core.read_namespaced_config_map("none", "default")
    raise AssertionError("found what isn't there")
except ApiException as error:
    assert error.status == 404 and error.reason == "Not Found", error

assert client.VersionApi().get_code().git_version.startswith("v1.37.")
print("done")
