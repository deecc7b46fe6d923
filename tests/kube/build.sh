#!/usr/bin/env bash
# Builds the real kube-apiserver, kube-controller-manager, etcd and helm for the conformance runs into
# $FAIRLEAD_KUBE_BIN (default ~/.cache/fairlead/kube-1.37.2); does nothing when they are there.
# Minutes on two cores the first time. Prints the folder.
set -euo pipefail
version=v1.37.2
helm=v4.3.1
here=$(cd "$(dirname "$0")" && pwd)
bin=${FAIRLEAD_KUBE_BIN:-${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/kube-${version#v}}
mkdir -p "$bin"
export CGO_ENABLED=0 GOFLAGS=-mod=readonly
stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"

build() { # module folder, package, name
  [ -x "$bin/$3" ] && return 0
  echo "building $3" >&2
  (cd "$here/$1" && go build -trimpath -ldflags "-s -w $stamp" -o "$bin/$3.part" "$2")
  mv "$bin/$3.part" "$bin/$3"
}

# One program under three names; an earlier build knew one of them.
[ -e "$bin/etcdutl" ] || rm -f "$bin/etcd"
build etcd . etcd
ln -sf etcd "$bin/etcdctl"
ln -sf etcd "$bin/etcdutl"
build kubernetes ./apiserver kube-apiserver
build kubernetes ./controller-manager kube-controller-manager
if [ ! -x "$bin/helm" ]; then
  echo "building helm" >&2
  # Unlike Kubernetes itself, it can be installed as it is.
  GOFLAGS=-mod=mod GOBIN="$bin/helm.part" go install -trimpath \
    -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=$helm" "helm.sh/helm/v4/cmd/helm@$helm"
  mv "$bin/helm.part/helm" "$bin/helm"
  rmdir "$bin/helm.part"
fi
echo "$bin"
