# shellcheck shell=bash
# Sourced by devcluster: the keys and certificates of a cluster of one node, in $K/pki. They outlive the cluster, so that
# a kubeconfig goes on working.

make_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

# certify NAME SUBJECT USAGE [NAMES]: a key and its certificate, in the current directory.
certify() {
    local name=$1 subject=$2 usage=$3 names=${4:-}
    make_key "$name"
    openssl req -new -key "$name.key" -subj "$subject" |
        openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$name.crt" -extfile <(
            echo 'basicConstraints=CA:FALSE'
            echo 'keyUsage=critical,digitalSignature,keyEncipherment'
            echo "extendedKeyUsage=$usage"
            [[ -z $names ]] || echo "subjectAltName=$names"
        ) 2>/dev/null
}

# make_kubeconfig NAME: a kubeconfig with the certificate of this name.
make_kubeconfig() {
    local ca certificate key
    ca=$(base64 -w 0 ca.crt) certificate=$(base64 -w 0 "$1.crt") key=$(base64 -w 0 "$1.key")
    cat >"$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: local, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: $ca}}]
users: [{name: $1, user: {client-certificate-data: $certificate, client-key-data: $key}}]
contexts: [{name: local, context: {cluster: local, user: $1, namespace: default}}]
current-context: local
YAML
}

# certify_servers IP: what the servers show to those who connect.
certify_servers() {
    local own=DNS:localhost,IP:127.0.0.1,IP:10.244.0.1,IP:$1 name
    local service=DNS:kubernetes,IP:10.96.0.1
    for name in default default.svc default.svc.cluster.local; do service+=,DNS:kubernetes.$name; done
    certify apiserver /CN=kube-apiserver serverAuth "$own,$service"
    certify kubelet-server "/CN=$node" serverAuth "$own,DNS:$node"
}

# make_pki IP: makes what is not there yet. The servers' certificates are made again if the machine has another address.
make_pki() (
    umask 077
    if [[ ! -e $K/pki/ca.crt ]]; then
        rm -rf "$K/pki.new"
        mkdir "$K/pki.new"
        cd "$K/pki.new"
        make_key ca
        openssl req -x509 -new -key ca.key -subj /CN=kubernetes -days 3650 -out ca.crt \
            -addext keyUsage=critical,digitalSignature,keyCertSign,cRLSign -addext basicConstraints=critical,CA:TRUE
        certify_servers "$1"
        certify apiserver-kubelet /O=system:masters/CN=apiserver-kubelet clientAuth
        certify admin /O=system:masters/CN=admin clientAuth
        certify kcm /CN=system:kube-controller-manager clientAuth
        certify sched /CN=system:kube-scheduler clientAuth
        certify kubelet "/O=system:nodes/CN=system:node:$node" clientAuth
        certify proxy /CN=system:kube-proxy clientAuth
        for name in admin kcm sched kubelet proxy; do make_kubeconfig "$name"; done
        # What tokens of service accounts are signed with.
        openssl genrsa -out sa.key 2048 2>/dev/null
        openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
        rm -rf "$K/pki"
        mv "$K/pki.new" "$K/pki"
    fi
    cd "$K/pki"
    openssl x509 -in kubelet-server.crt -noout -checkip "$1" | grep -q 'does match' || certify_servers "$1"
)
