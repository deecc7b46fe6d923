import yaml,sys
d=sys.argv[1].rstrip('/')+'/'
out=[]
def labels(m):
    l={k:v for k,v in (m.get('labels') or {}).items() if k!='kubernetes.io/bootstrapping'}
    assert all(v=='true' for v in l.values()),l
    return l
def rule(r):
    def j(k): return ','.join('""' if x=='' else x for x in r.get(k,[]) or [])
    if r.get('nonResourceURLs'): 
        assert not r.get('resources')
        return '  url %s : %s'%(j('nonResourceURLs'),j('verbs'))
    s='  %s / %s : %s'%(j('apiGroups'),' '.join(r['resources']),j('verbs'))
    if r.get('resourceNames'): s+=' : '+' '.join(r['resourceNames'])
    return s
seen=set()
def put(o):
    k=o['kind'];m=o['metadata'];ns=m.get('namespace')
    assert set(m)<= {'name','namespace','labels','annotations','creationTimestamp'},m
    n=m['name']; 
    if k in('ClusterRole','Role'):
        l=labels(m)
        head=('role ' if ns is None else 'role %s/'%ns)+n
        for x in l: 
            assert x.startswith('rbac.authorization.k8s.io/'),x
            head+=' label=%s'%x.split('/')[1]
        if o.get('aggregationRule'):
            sel=o['aggregationRule']['clusterRoleSelectors']
            for s in sel:
                (kk,v),=s['matchLabels'].items(); assert v=='true'
                head+=' aggregate=%s'%kk.split('/')[1]
        out.append(head)
        for r in (o.get('rules') or []): out.append(rule(r))
    else:
        assert not labels(m)
        rr=o['roleRef']
        head=('bind ' if ns is None else 'bind %s/'%ns)+n+' to '+rr['kind']+'/'+rr['name']
        out.append(head)
        for s in o.get('subjects') or []:
            out.append('  %s %s'%(s['kind'],(s['namespace']+'/' if s.get('namespace') else '')+s['name']))
for f in ['cluster-roles','controller-roles','namespace-roles','cluster-role-bindings','controller-role-bindings','namespace-role-bindings']:
    for o in yaml.safe_load(open(d+f+'.yaml'))['items']: put(o)
print('\n'.join(out))
