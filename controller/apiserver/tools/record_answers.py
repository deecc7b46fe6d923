"""Records what a real kube-apiserver answers to a table of requests, for tests/recorded.rs.

Usage: record_answers.py https://HOST:PORT ADMIN_TOKEN > controller/apiserver/tests/recorded.jsonl

The server must be fresh, with RBAC, the service range 10.96.0.0/16 and no controller manager. Each
line is one request with its answer: the code, and the causes of a refusal or the object without
what differs from run to run.
"""
import copy,json,re,ssl,sys,time,urllib.error,urllib.request
BASE,TOKEN=sys.argv[1:3]
TLS=ssl._create_unverified_context()
NS='recorded'
DROP={'uid','resourceVersion','creationTimestamp','managedFields','deletionTimestamp','deletionGracePeriodSeconds','lastTransitionTime','token','expirationTimestamp'}

def call(method,path,body=None,user=None,groups=()):
    data=None if body is None else json.dumps(body).encode()
    r=urllib.request.Request(BASE+path,method=method,data=data)
    r.add_header('Authorization','Bearer '+TOKEN)
    r.add_header('Content-Type','application/json')
    if user: r.add_header('Impersonate-User',user)
    try:
        with urllib.request.urlopen(r,context=TLS) as f: return f.status,json.loads(f.read())
    except urllib.error.HTTPError as e: return e.code,json.loads(e.read())

def norm(o):
    """The answer without what differs from run to run; tests/recorded.rs does the same."""
    if isinstance(o,list): return [norm(x) for x in o]
    if not isinstance(o,dict):
        if isinstance(o,str):
            if re.fullmatch(r'10\.96\.\d+\.\d+',o): return 'IP'
            if re.fullmatch(r'[0-9a-f]{8}-[0-9a-f-]{27}',o): return 'UID'
            if o.startswith('kube-api-access-'): return 'kube-api-access-X'
        return o
    return {k:('PORT' if k in('nodePort','healthCheckNodePort') else norm(v)) for k,v in o.items() if k not in DROP}

def answer(code,o):
    if o.get('kind')=='Status' and code>=400:
        causes=(o.get('details') or {}).get('causes') or []
        r={'code':code,'reason':o.get('reason'),'causes':sorted('%s %s'%(c.get('reason',''),c.get('field','')) for c in causes)}
        if code in(403,404): r['message']=o['message']
        return r
    if o.get('kind')=='Status': return {'code':code}
    return {'code':code,'object':norm(o)}

def out(**line):
    text=json.dumps(line,separators=(',',':'))
    # Requests made to exceed a limit have tests of their own.
    if len(text)<20000: print(text)

def T(name,method,path,body=None,user=None,hdr=None):
    line={'name':name,'method':method,'path':path}
    if body is not None: line['body']=body
    if user: line['user']=user
    out(**line,**answer(*call(method,path,body,user)))

def upd(name,path,sets):
    _,o=call('GET',path)
    for where,value in sets:
        x=o; ks=where.split('.')
        for k in ks[:-1]: x=x[int(k)] if k.isdigit() and isinstance(x,list) else x.setdefault(k,{})
        if value is None: x.pop(ks[-1],None)
        else: x[ks[-1]]=value
    out(name=name,method='EDIT',path=path,set=sets,**answer(*call('PUT',path,o)))

def setv(*pairs): return [list(p) for p in pairs]

C='/api/v1/namespaces/%s/'%NS; A='/apis/apps/v1/namespaces/%s/'%NS
p80=[{'port':80}]
T('ns','POST','/api/v1/namespaces',{'metadata':{'name':NS}})
T('default account','POST',C+'serviceaccounts',{'metadata':{'name':'default'}})
T('robot','POST',C+'serviceaccounts',{'metadata':{'name':'robot'}})
def svc(name,spec,**m): return {'metadata':{'name':name,**m},'spec':spec}
p80=[{'port':80}]
cases=[
 ('plain',svc('s1',{'ports':p80,'selector':{'a':'b'}})),
 ('noports',svc('s2',{})),
 ('headless',svc('s3',{'clusterIP':'None','selector':{'a':'b'}})),
 ('headless-nosel',svc('s4',{'clusterIP':'None'})),
 ('externalname',svc('s5',{'type':'ExternalName','externalName':'a.example.com'})),
 ('externalname-none',svc('s6',{'type':'ExternalName'})),
 ('externalname-bad',svc('s6',{'type':'ExternalName','externalName':'a_b','clusterIP':'10.96.1.1','ipFamilies':['IPv4']})),
 ('nodeport',svc('s7',{'type':'NodePort','ports':[{'port':80,'name':'a'},{'port':81,'name':'b','protocol':'UDP'}]})),
 ('lb',svc('s8',{'type':'LoadBalancer','ports':p80})),
 ('lb-local',svc('s9',{'type':'LoadBalancer','ports':p80,'externalTrafficPolicy':'Local'})),
 ('affinity',svc('s10',{'sessionAffinity':'ClientIP','ports':p80})),
 ('affinity-bad',svc('s11',{'sessionAffinity':'X','ports':p80})),
 ('affinity-big',svc('s12',{'sessionAffinity':'ClientIP','sessionAffinityConfig':{'clientIP':{'timeoutSeconds':86401}},'ports':p80})),
 ('affinity-0',svc('s13',{'sessionAffinity':'ClientIP','sessionAffinityConfig':{'clientIP':{'timeoutSeconds':0}},'ports':p80})),
 ('ports-bad',svc('s14',{'ports':[{'port':80},{'name':'A','port':0,'protocol':'ICMP','targetPort':'way-too-long-name-here'},{'name':'b','port':80},{'name':'b','port':81,'nodePort':30000}]})),
 ('type-bad',svc('s15',{'type':'Magic','ports':p80})),
 ('dual-req',svc('s16',{'ports':p80,'ipFamilyPolicy':'RequireDualStack'})),
 ('dual-pref',svc('s17',{'ports':p80,'ipFamilyPolicy':'PreferDualStack'})),
 ('v6',svc('s18',{'ports':p80,'ipFamilies':['IPv6']})),
 ('fam-bad',svc('s19',{'ports':p80,'ipFamilies':['IPv7','IPv7']})),
 ('ip-outside',svc('s20',{'ports':p80,'clusterIP':'10.97.0.1'})),
 ('ip-bad',svc('s21',{'ports':p80,'clusterIP':'1.2.3'})),
 ('ip-v6',svc('s22',{'ports':p80,'clusterIP':'fd00::1'})),
 ('ips-mismatch',svc('s23',{'ports':p80,'clusterIP':'10.96.0.9','clusterIPs':['10.96.0.8']})),
 ('ips-only',svc('s24',{'ports':p80,'clusterIPs':['10.96.0.8']})),
 ('ips-3',svc('s25',{'ports':p80,'clusterIP':'10.96.0.8','clusterIPs':['10.96.0.8','10.96.0.9','10.96.0.10']})),
 ('none-plus',svc('s26',{'ports':p80,'clusterIP':'None','clusterIPs':['None','10.96.0.9']})),
 ('none-lb',svc('s27',{'type':'LoadBalancer','ports':p80,'clusterIP':'None'})),
 ('extips',svc('s28',{'ports':p80,'externalIPs':['1.2.3.4','127.0.0.1','x']})),
 ('extips-ok',svc('s29',{'ports':p80,'externalIPs':['1.2.3.4']})),
 ('etp-clusterip',svc('s30',{'ports':p80,'externalTrafficPolicy':'Local'})),
 ('itp-bad',svc('s31',{'ports':p80,'internalTrafficPolicy':'X','trafficDistribution':'Y'})),
 ('td',svc('s32',{'ports':p80,'trafficDistribution':'PreferClose'})),
 ('np-range',svc('s33',{'type':'NodePort','ports':[{'port':1,'nodePort':80}]})),
 ('np-dup',svc('s34',{'type':'NodePort','ports':[{'name':'a','port':1,'nodePort':30001},{'name':'b','port':2,'nodePort':30001}]})),
 ('np-clusterip',svc('s35',{'ports':[{'port':1,'nodePort':30001}]})),
 ('lbsr',svc('s36',{'ports':p80,'loadBalancerSourceRanges':['10.0.0.0/8']})),
 ('lbclass',svc('s37',{'ports':p80,'loadBalancerClass':'a/b'})),
 ('sel-bad',svc('s38',{'ports':p80,'selector':{'a b':'-'}})),
 ('name-upper',svc('S',{'ports':p80})),
 ('name-digit',svc('1s',{'ports':p80})),
 ('name-dots',svc('a.b',{'ports':p80})),
 ('name-long',svc('a'*64,{'ports':p80})),
 ('appproto',svc('s39',{'ports':[{'port':80,'appProtocol':'a b'}]})),
 ('appproto-ok',svc('s40',{'ports':[{'port':80,'appProtocol':'kubernetes.io/h2c'}]})),
 ('dup-port',svc('s41',{'ports':[{'name':'a','port':80},{'name':'b','port':80}]})),
 ('target-name',svc('s42',{'ports':[{'port':80,'targetPort':'http'}]})),
 ('target-0',svc('s43',{'ports':[{'port':80,'targetPort':0}]})),
 ('labels-bad',svc('s44',{'ports':p80},labels={'a b':'x','ok':'-x-'},annotations={'a b':'x'},finalizers=['x'])),
 ('anno-big',svc('s45',{'ports':p80},annotations={'a':'x'*270000})),
 ('proto-sctp',svc('s46',{'ports':[{'port':80,'protocol':'SCTP'}]})),
 ('hcnp',svc('s47',{'ports':p80,'healthCheckNodePort':30100})),
]
for nm,o in cases: T('svc '+nm,'POST',C+'services',o)
S1=C+'services/s1'
upd('svc upd ip',S1,setv(('spec.clusterIP','10.96.77.7'),('spec.clusterIPs',['10.96.77.7'])))
upd('svc upd ip-only',S1,setv(('spec.clusterIP','10.96.77.7')))
upd('svc upd unset ip',S1,setv(('spec.clusterIP',None),('spec.clusterIPs',None)))
upd('svc upd ports',S1,setv(('spec.ports',[{'port':90}])))
upd('svc upd fam',S1,setv(('spec.ipFamilies',['IPv6'])))
upd('svc upd to np',S1,setv(('spec.type','NodePort')))
upd('svc upd to lb',S1,setv(('spec.type','LoadBalancer')))
upd('svc upd to clusterip',S1,setv(('spec.type','ClusterIP')))
upd('svc upd to extname',S1,setv(('spec.type','ExternalName'),('spec.externalName','x.example')))
upd('svc upd back',S1,setv(('spec.type','ClusterIP'),('spec.externalName',None)))
upd('svc upd headless?',S1,setv(('spec.clusterIP','None'),('spec.clusterIPs',['None'])))
upd('svc lbclass',C+'services/s8',setv(('spec.loadBalancerClass','a/b')))
D='/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices'%NS
def es(name,**k): return {'metadata':{'name':name},**k}
for nm,o in [
 ('v4',es('e1',addressType='IPv4',endpoints=[{'addresses':['10.1.2.3']}],ports=[{'port':80}])),
 ('none',es('e2',addressType='IPv4')),
 ('notype',es('e3',endpoints=[])),
 ('badtype',es('e4',addressType='X',endpoints=[{'addresses':[]}],ports=[{'name':'a'},{'name':'a'},{'name':'B','protocol':'ICMP'},{'port':0},{'port':70000,'name':'z'}])),
 ]+[('addr '+t+' '+a,es('e%d'%i,addressType=t,endpoints=[{'addresses':[a]}])) for i,(t,a) in enumerate([('IPv4','127.0.0.1'),('IPv4','169.254.1.1'),('IPv4','224.0.0.1'),('IPv4','239.1.1.1'),('IPv4','0.0.0.0'),('IPv4','10.0.0'),('IPv4','010.0.0.1'),('IPv4','::1'),('IPv4','2001:db8::1'),('IPv6','10.0.0.1'),('IPv6','::1'),('IPv6','::'),('IPv6','fe80::1'),('IPv6','ff02::1'),('IPv6','ff05::1'),('IPv6','2001:DB8::1'),('IPv6','::ffff:1.2.3.4'),('IPv6','2001:db8::2'),('FQDN','a.b'),('FQDN','ab'),('FQDN','a_b.c'),('FQDN','a.b.'),('FQDN','')],100)]+[
 ('cond',es('e5',addressType='IPv4',endpoints=[{'addresses':['10.1.2.3'],'conditions':{'ready':True},'hostname':'H','nodeName':'N_','zone':'z','targetRef':{'kind':'Pod','name':'x'},'hints':{'forZones':[{'name':'a'},{'name':'a'},{'name':'-'}],'forNodes':[{'name':'N_'}]}}])),
 ('many',es('e6',addressType='IPv4',endpoints=[{'addresses':['10.1.%d.%d'%(i//250,i%250+1)]} for i in range(1001)])),
 ('addrs101',es('e7',addressType='IPv4',endpoints=[{'addresses':['10.1.0.%d'%(i+1) for i in range(101)]}])),
 ('appproto',es('e8',addressType='IPv4',endpoints=[],ports=[{'appProtocol':'a b'}])),
 ('topo',es('e9',addressType='IPv4',endpoints=[{'addresses':['10.1.2.3'],'deprecatedTopology':{'a b':'c'}}])),
 ]: T('es '+nm,'POST',D,o)
upd('es upd type',D+'/e1',setv(('addressType','IPv6'),('endpoints',[])))
upd('es upd label',D+'/e1',setv(('metadata.labels',{'a':'b'})))
upd('es upd endpoints',D+'/e1',setv(('endpoints',[{'addresses':['10.9.9.9'],'conditions':{'ready':False}}])))
for nm,o in [('cm',{'metadata':{'name':'c1'},'data':{'a':'b'}}),('cm key',{'metadata':{'name':'c2'},'data':{'a b':'c','..':'x','.':'y','..z':'w'}}),('cm dup',{'metadata':{'name':'c3'},'data':{'a':'x'},'binaryData':{'a':'eA=='}}),('cm bin',{'metadata':{'name':'c4'},'binaryData':{'a':'eA=='}}),('cm imm',{'metadata':{'name':'c5'},'immutable':True,'data':{'a':'b'}}),('cm big',{'metadata':{'name':'c6'},'data':{'a':'x'*(1024*1024+1)}}),('cm name',{'metadata':{'name':'C_'}}),('cm noname',{'metadata':{}}),('cm badb64',{'metadata':{'name':'c7'},'binaryData':{'a':'!!'}}),('cm owner',{'metadata':{'name':'c8','ownerReferences':[{'apiVersion':'','kind':'','name':'','uid':''},{'apiVersion':'a/b/c','kind':'A','name':'a','uid':'u','controller':True},{'apiVersion':'v1','kind':'Event','name':'a','uid':'u','controller':True}]}})]: T(nm,'POST',C+'configmaps',o)
upd('cm imm data',C+'configmaps/c5',setv(('data',{'a':'c'})))
upd('cm imm off',C+'configmaps/c5',setv(('immutable',False)))
upd('cm imm label',C+'configmaps/c5',setv(('metadata.labels',{'a':'b'})))
for nm,o in [('sec',{'metadata':{'name':'s1'},'stringData':{'a':'b'},'data':{'c':'eA=='}}),('sec tls',{'metadata':{'name':'s2'},'type':'kubernetes.io/tls'}),('sec basic',{'metadata':{'name':'s3'},'type':'kubernetes.io/basic-auth'}),('sec ssh',{'metadata':{'name':'s4'},'type':'kubernetes.io/ssh-auth'}),('sec docker',{'metadata':{'name':'s5'},'type':'kubernetes.io/dockerconfigjson','stringData':{'.dockerconfigjson':'nojson'}}),('sec docker none',{'metadata':{'name':'s6'},'type':'kubernetes.io/dockerconfigjson'}),('sec sa',{'metadata':{'name':'s7'},'type':'kubernetes.io/service-account-token'}),('sec key',{'metadata':{'name':'s8'},'data':{'a b':'eA=='}}),('sec custom',{'metadata':{'name':'s9'},'type':'example.com/x'})]: T(nm,'POST',C+'secrets',o)
upd('sec type',C+'secrets/s1',setv(('type','kubernetes.io/tls')))
upd('sec string',C+'secrets/s1',setv(('stringData',{'z':'y'})))
upd('sec notype',C+'secrets/s9',setv(('type',None)))
L='/apis/coordination.k8s.io/v1/namespaces/%s/leases'%NS
for nm,o in [('lease',{'metadata':{'name':'l1'},'spec':{'holderIdentity':'a','leaseDurationSeconds':15,'renewTime':'2026-01-01T00:00:00.123456Z'}}),('lease bad',{'metadata':{'name':'l2'},'spec':{'leaseDurationSeconds':0,'leaseTransitions':-1,'preferredHolder':'x'}}),('lease strat',{'metadata':{'name':'l3'},'spec':{'strategy':'X'}}),('lease empty',{'metadata':{'name':'l4'}}),('lease time',{'metadata':{'name':'l5'},'spec':{'renewTime':'2026-01-01T00:00:00Z','acquireTime':'x'}})]: T(nm,'POST',L,o)
T('lease put new','PUT',L+'/l9',{'metadata':{'name':'l9'},'spec':{}})
T('lease put norv','PUT',L+'/l1',{'metadata':{'name':'l1'},'spec':{}})
for nm,o in [('ns bad',{'metadata':{'name':'A.b'}}),('ns label',{'metadata':{'name':NS+'x','labels':{'kubernetes.io/metadata.name':'other'}},'spec':{'finalizers':['x']}}),('ns fin',{'metadata':{'name':NS+'y'},'spec':{'finalizers':['a/b']}})]: T(nm,'POST','/api/v1/namespaces',o)
upd('ns upd',"/api/v1/namespaces/"+NS,setv(('spec.finalizers',[]),('status.phase','Terminating'),('metadata.labels',{'x':'y'})))
upd('ns status',"/api/v1/namespaces/"+NS+"/status",setv(('status.phase','Terminating')))
for nm,o in [('sa',{'metadata':{'name':'a1'},'automountServiceAccountToken':False}),('sa bad',{'metadata':{'name':'A'}})]: T(nm,'POST',C+'serviceaccounts',o)
pod={'containers':[{'name':'main','image':'registry.example/app:1'}]}
def dep(name,spec=None,**t):
    s={'selector':{'matchLabels':{'app':name}},'template':{'metadata':{'labels':{'app':name}},'spec':copy.deepcopy(pod)}}
    s.update(spec or {}); s['template']['spec'].update(t)
    return {'metadata':{'name':name},'spec':s}
for nm,o in [('dep',dep('d1')),('dep none',{'metadata':{'name':'d2'},'spec':{}}),('dep nosel',dep('d3',{'selector':None})),('dep emptysel',dep('d4',{'selector':{}})),('dep stray',dep('d5',{'selector':{'matchLabels':{'app':'x'}}})),
 ('dep neg',dep('d6',{'replicas':-1,'minReadySeconds':-1,'revisionHistoryLimit':-1,'progressDeadlineSeconds':-1})),('dep pds',dep('d7',{'minReadySeconds':700})),
 ('dep recreate',dep('d8',{'strategy':{'type':'Recreate'}})),('dep recreate rolling',dep('d9',{'strategy':{'type':'Recreate','rollingUpdate':{'maxSurge':1}}})),('dep strat bad',dep('d10',{'strategy':{'type':'X'}})),
 ('dep surge0',dep('d11',{'strategy':{'rollingUpdate':{'maxSurge':0,'maxUnavailable':0}}})),('dep surge bad',dep('d12',{'strategy':{'rollingUpdate':{'maxSurge':'x','maxUnavailable':'200%'}}})),
 ('dep selexpr',dep('d13',{'selector':{'matchExpressions':[{'key':'a b','operator':'In'},{'key':'x','operator':'Exists','values':['y']},{'key':'z','operator':'Q'}]}})),
 ('dep never',dep('d14',restartPolicy='Never',dnsPolicy='X')),('dep sa',dep('d15',serviceAccountName='x')),('dep rp',dep('d16',restartPolicy='Foo')),
 ('dep rich',dep('d17',containers=[{'name':'a','image':'img','ports':[{'containerPort':80,'name':'http'}],'livenessProbe':{'httpGet':{'port':80}},'readinessProbe':{'tcpSocket':{'port':'http'}},'startupProbe':{'grpc':{'port':5}},'lifecycle':{'preStop':{'httpGet':{'port':1}}},'env':[{'name':'X','valueFrom':{'fieldRef':{'fieldPath':'metadata.name'}}},{'name':'Y','value':'z'}],'resources':{'limits':{'cpu':'1','memory':'1Gi'}},'volumeMounts':[{'name':'v','mountPath':'/v'}]}],initContainers=[{'name':'i','image':'a:latest'}],volumes=[{'name':'v'},{'name':'s','secret':{'secretName':'x'}},{'name':'c','configMap':{'name':'x'}},{'name':'d','downwardAPI':{'items':[{'path':'p','fieldRef':{'fieldPath':'metadata.name'}}]}},{'name':'p','projected':{'sources':[{'serviceAccountToken':{'path':'t'}},{'configMap':{'name':'x'}}]}},{'name':'h','hostPath':{'path':'/x'}},{'name':'e','emptyDir':{}}],hostNetwork=True,tolerations=[{'key':'a','operator':'Exists'}],nodeSelector={'a':'b'},affinity={'nodeAffinity':{}})),
 ('dep badpod',dep('d18',containers=[{'name':'A','image':'','ports':[{'containerPort':0},{'containerPort':70000,'name':'toolongportnamehere','protocol':'X'}],'imagePullPolicy':'Z','terminationMessagePolicy':'Q'},{'name':'b','image':'x','volumeMounts':[{'name':'no','mountPath':''},{'name':'','mountPath':'/a'}],'env':[{'name':''},{'name':'a=b'},{'name':'c','value':'x','valueFrom':{'fieldRef':{'fieldPath':'metadata.name'}}}]},{'name':'b','image':' x '}],volumes=[{'name':'A'},{'name':'v','emptyDir':{},'hostPath':{'path':'/x'}},{'name':'v'},{}],nodeName='N_',hostname='a.b',nodeSelector={'a b':'c'},activeDeadlineSeconds=0)),
 ('dep nocont',dep('d19',containers=[])),('dep labels',{'metadata':{'name':'d20','labels':{'a b':'c'}},'spec':dep('d20')['spec']}),('dep paused',dep('d21',{'paused':True})),
 ]: T(nm,'POST',A+'deployments',o)
upd('dep upd sel',A+'deployments/d1',setv(('spec.selector.matchLabels',{'app':'z'}),('spec.template.metadata.labels',{'app':'z'})))
upd('dep upd repl',A+'deployments/d1',setv(('spec.replicas',3)))
upd('dep upd status',A+'deployments/d1/status',setv(('status.replicas',3),('status.readyReplicas',4),('spec.replicas',9)))
upd('dep upd label',A+'deployments/d1',setv(('metadata.labels',{'a':'b'})))
for nm,o in [('sts',dep('t1',{'serviceName':'x'})),('sts claims',dep('t2',{'serviceName':'x','volumeClaimTemplates':[{'metadata':{'name':'c'},'spec':{'accessModes':['ReadWriteOnce'],'resources':{'requests':{'storage':'1Gi'}}}}]})),('sts bad',dep('t3',{'podManagementPolicy':'X','updateStrategy':{'type':'Y'},'serviceName':'A_'})),('sts ondelete',dep('t4',{'updateStrategy':{'type':'OnDelete','rollingUpdate':{'partition':1}}})),('sts nosel',dep('t5',{'selector':None})),('sts part',dep('t6',{'updateStrategy':{'rollingUpdate':{'partition':-1}}}))]: T(nm,'POST',A+'statefulsets',o)
upd('sts upd sel',A+'statefulsets/t1',setv(('spec.serviceName','y')))
upd('sts upd repl',A+'statefulsets/t1',setv(('spec.replicas',3)))
for nm,o in [('ds',dep('e1')),('ds ondel',dep('e2',{'updateStrategy':{'type':'OnDelete'}})),('ds bad',dep('e3',{'updateStrategy':{'type':'X'}})),('ds nosel',dep('e4',{'selector':None})),('ds zero',dep('e5',{'updateStrategy':{'rollingUpdate':{'maxUnavailable':0}}})),('ds both',dep('e6',{'updateStrategy':{'rollingUpdate':{'maxUnavailable':1,'maxSurge':1}}})),('ds ads',dep('e7',activeDeadlineSeconds=5))]: T(nm,'POST',A+'daemonsets',o)
upd('ds upd sel',A+'daemonsets/e1',setv(('spec.selector.matchLabels',{'app':'z'}),('spec.template.metadata.labels',{'app':'z'})))
for nm,o in [('rs',dep('r1')),('rs nosel',dep('r2',{'selector':None})),('rs stray',dep('r3',{'selector':{'matchLabels':{'app':'x'}}})),('rs empty',dep('r4',{'selector':{}}))]: T(nm,'POST',A+'replicasets',o)
RC={'metadata':{'name':'rc1'},'spec':{'template':{'metadata':{'labels':{'a':'b'}},'spec':pod}}}
T('rc','POST',C+'replicationcontrollers',RC)
T('rc none','POST',C+'replicationcontrollers',{'metadata':{'name':'rc2'},'spec':{}})
B='/apis/batch/v1/namespaces/%s/'%NS
jp=dict(copy.deepcopy(pod),restartPolicy='Never')
for nm,o in [('job',{'metadata':{'name':'j1'},'spec':{'template':{'spec':jp}}}),('job always',{'metadata':{'name':'j2'},'spec':{'template':{'spec':pod}}}),('job par',{'metadata':{'name':'j3'},'spec':{'parallelism':3,'template':{'metadata':{'labels':{'a':'b'}},'spec':jp}}}),('job idx',{'metadata':{'name':'j4'},'spec':{'completionMode':'Indexed','template':{'spec':jp},'parallelism':2}}),('job neg',{'metadata':{'name':'j5'},'spec':{'completions':-1,'backoffLimit':-1,'activeDeadlineSeconds':-1,'ttlSecondsAfterFinished':-1,'template':{'spec':jp}}}),('job sel',{'metadata':{'name':'j6'},'spec':{'selector':{'matchLabels':{'a':'b'}},'template':{'spec':jp}}}),('job manual',{'metadata':{'name':'j7'},'spec':{'manualSelector':True,'selector':{'matchLabels':{'a':'b'}},'template':{'metadata':{'labels':{'a':'b'}},'spec':jp}}}),('job mode',{'metadata':{'name':'j8'},'spec':{'completionMode':'X','template':{'spec':jp}}})]: T(nm,'POST',B+'jobs',o)
upd('job upd compl',B+'jobs/j1',setv(('spec.completions',5)))
upd('job upd par',B+'jobs/j1',setv(('spec.parallelism',5)))
upd('job upd tmpl',B+'jobs/j1',setv(('spec.template.spec.terminationGracePeriodSeconds',5)))
for nm,o in [('cron',{'metadata':{'name':'c1'},'spec':{'schedule':'*/5 * * * *','jobTemplate':{'spec':{'template':{'spec':jp}}}}}),('cron bad',{'metadata':{'name':'c2'},'spec':{'schedule':'x','concurrencyPolicy':'Q','jobTemplate':{'spec':{'template':{'spec':pod}}}}}),('cron none',{'metadata':{'name':'c3'},'spec':{}}),('cron long',{'metadata':{'name':'c'*53},'spec':{'schedule':'@daily','jobTemplate':{'spec':{'template':{'spec':jp}}}}})]: T(nm,'POST',B+'cronjobs',o)
for nm,o in [('pod',{'metadata':{'name':'p1'},'spec':pod}),('pod res',{'metadata':{'name':'p2'},'spec':{'containers':[{'name':'a','image':'b','resources':{'limits':{'cpu':'1','memory':'1Gi'}}}]}}),('pod half',{'metadata':{'name':'p3'},'spec':{'containers':[{'name':'a','image':'b','resources':{'requests':{'cpu':'1'}}}]}}),('pod nosa',{'metadata':{'name':'p4'},'spec':dict(pod,serviceAccountName='nope')}),('pod noauto',{'metadata':{'name':'p5'},'spec':dict(pod,automountServiceAccountToken=False,tolerations=[{'operator':'Exists'}])}),('pod node',{'metadata':{'name':'p6'},'spec':dict(pod,nodeName='n1')}),('pod bad',{'metadata':{'name':'p7'},'spec':{'containers':[]}}),('pod prio',{'metadata':{'name':'p8'},'spec':dict(pod,priority=5)}),('pod tgps',{'metadata':{'name':'p9'},'spec':dict(pod,terminationGracePeriodSeconds=-1)}),('pod req>lim',{'metadata':{'name':'p10'},'spec':{'containers':[{'name':'a','image':'b','resources':{'limits':{'cpu':'1'},'requests':{'cpu':'2'}}}]}})]: T(nm,'POST',C+'pods',o)
upd('pod upd img',C+'pods/p1',setv(('spec.containers.0.image','x:2')))
upd('pod upd node',C+'pods/p1',setv(('spec.nodeName','n')))
upd('pod upd tol',C+'pods/p1',setv(('spec.tolerations',[])))
upd('pod status',C+'pods/p1/status',setv(('status.phase','Running'),('status.podIP','10.0.0.1'),('status.podIPs',[{'ip':'10.0.0.1'}])))
upd('pod label',C+'pods/p1',setv(('metadata.labels',{'a':'b'})))
T('pod del','DELETE',C+'pods/p6')
T('pod del2','DELETE',C+'pods/p1')
N='/apis/networking.k8s.io/v1/namespaces/%s/'%NS
for nm,o in [('np',{'metadata':{'name':'n1'},'spec':{'podSelector':{},'egress':[{'ports':[{'port':53}]}]}}),('np bad',{'metadata':{'name':'n2'},'spec':{'podSelector':{'matchLabels':{'a b':'c'}},'policyTypes':['X'],'ingress':[{'from':[{},{'ipBlock':{'cidr':'x'}},{'podSelector':{},'ipBlock':{'cidr':'10.0.0.0/8'}}],'ports':[{'port':0},{'port':'A'},{'endPort':5},{'port':10,'endPort':5},{'port':'a','endPort':5},{'protocol':'Q'}]}]}}),('np empty',{'metadata':{'name':'n3'},'spec':{'podSelector':{}}})]: T(nm,'POST',N+'networkpolicies',o)
be={'service':{'name':'s','port':{'number':80}}}
for nm,o in [('ing',{'metadata':{'name':'i1'},'spec':{'defaultBackend':be}}),('ing none',{'metadata':{'name':'i2'},'spec':{}}),('ing rules',{'metadata':{'name':'i3'},'spec':{'rules':[{'host':'a.example','http':{'paths':[{'path':'/','pathType':'Prefix','backend':be}]}}]}}),('ing bad',{'metadata':{'name':'i4'},'spec':{'rules':[{'host':'A_','http':{'paths':[{'path':'x','pathType':'Prefix','backend':{}},{'backend':be},{'pathType':'Q','path':'/','backend':{'service':{'name':'','port':{}}}}]}},{'http':{'paths':[]}},{'host':'1.2.3.4'}]}})]: T(nm,'POST',N+'ingresses',o)
P='/apis/policy/v1/namespaces/%s/poddisruptionbudgets'%NS
for nm,o in [('pdb',{'metadata':{'name':'b1'},'spec':{'minAvailable':1,'selector':{'matchLabels':{'a':'b'}}}}),('pdb both',{'metadata':{'name':'b2'},'spec':{'minAvailable':1,'maxUnavailable':1}}),('pdb pct',{'metadata':{'name':'b3'},'spec':{'minAvailable':'101%','maxUnavailable':'x'}}),('pdb neg',{'metadata':{'name':'b4'},'spec':{'minAvailable':-1,'unhealthyPodEvictionPolicy':'Q'}}),('pdb empty',{'metadata':{'name':'b5'},'spec':{}})]: T(nm,'POST',P,o)
R='/apis/rbac.authorization.k8s.io/v1/namespaces/%s/'%NS; RC_='/apis/rbac.authorization.k8s.io/v1/'
for nm,p,o in [('role',R+'roles',{'metadata':{'name':'r1'},'rules':[{'apiGroups':[''],'resources':['pods'],'verbs':['get']}]}),('role bad',R+'roles',{'metadata':{'name':'r2'},'rules':[{'apiGroups':[''],'resources':['pods']},{'nonResourceURLs':['/x'],'verbs':['get']},{'verbs':['get']},{'nonResourceURLs':['/x'],'resources':['a'],'verbs':['get']}]}),('role none',R+'roles',{'metadata':{'name':'r3'}}),('role name',R+'roles',{'metadata':{'name':'a%b'}}),('crole',RC_+'clusterroles',{'metadata':{'name':'cr1'},'rules':[{'nonResourceURLs':['/x'],'verbs':['get']}]}),('crole agg',RC_+'clusterroles',{'metadata':{'name':'cr2'},'aggregationRule':{'clusterRoleSelectors':[]}}),('crole agg2',RC_+'clusterroles',{'metadata':{'name':'cr3'},'aggregationRule':{'clusterRoleSelectors':[{'matchLabels':{'a b':'c'}}]}}),
 ('rb',R+'rolebindings',{'metadata':{'name':'b1'},'roleRef':{'kind':'ClusterRole','name':'view'},'subjects':[{'kind':'User','name':'bob'},{'kind':'ServiceAccount','name':'sa','namespace':NS}]}),('rb bad',R+'rolebindings',{'metadata':{'name':'b2'},'roleRef':{'kind':'X','name':''},'subjects':[{'kind':'ServiceAccount','name':'A'},{'kind':'Robot','name':'r'},{'kind':'User','name':'','apiGroup':'x'}]}),('rb none',R+'rolebindings',{'metadata':{'name':'b3'}}),('crb',RC_+'clusterrolebindings',{'metadata':{'name':'cr1'},'roleRef':{'kind':'ClusterRole','name':'view','apiGroup':'rbac.authorization.k8s.io'},'subjects':[{'kind':'Group','name':'g'}]}),('crb bad',RC_+'clusterrolebindings',{'metadata':{'name':'cr2'},'roleRef':{'kind':'Role','name':'x'},'subjects':[{'kind':'ServiceAccount','name':'sa'}]})]: T(nm,'POST',p,o)
upd('rb ref',R+'rolebindings/b1',setv(('roleRef.name','edit')))
upd('rb subj',R+'rolebindings/b1',setv(('subjects',[])))
upd('role empty',R+'roles/r1',setv(('rules',[])))
T('node','POST','/api/v1/nodes',{'metadata':{'name':'n1'},'spec':{'podCIDR':'10.0.0.0/24'},'status':{'capacity':{'cpu':'4'}}})
upd('node prov','/api/v1/nodes/n1',setv(('spec.providerID','x')))
upd('node prov2','/api/v1/nodes/n1',setv(('spec.providerID','y')))
upd('node status','/api/v1/nodes/n1/status',setv(('status.conditions',[{'type':'Ready','status':'True'}])))
T('event','POST',C+'events',{'metadata':{'name':'ev1'},'involvedObject':{'kind':'Pod','name':'p','namespace':NS},'reason':'R','message':'m','type':'Normal'})
T('event badns','POST',C+'events',{'metadata':{'name':'ev2'},'involvedObject':{'kind':'Pod','name':'p','namespace':'other'}})
T('event none','POST',C+'events',{'metadata':{'name':'ev3'},'involvedObject':{}})
for nm,b in [('tok',{'spec':{}}),('tok aud',{'spec':{'audiences':['a','b'],'expirationSeconds':700}}),('tok short',{'spec':{'expirationSeconds':5}}),('tok long',{'spec':{'expirationSeconds':4294967297}}),('tok bound none',{'spec':{'boundObjectRef':{'kind':'Pod','apiVersion':'v1','name':'nope'}}}),('tok bound kind',{'spec':{'boundObjectRef':{'kind':'X','apiVersion':'a/v1','name':'nope'}}}),('tok name',{'metadata':{'name':'other'},'spec':{}})]: T(nm,'POST',C+'serviceaccounts/robot/token',b)
T('tok nosa','POST',C+'serviceaccounts/nope/token',{'spec':{}})
AU='/apis/authorization.k8s.io/v1/'
ra={'verb':'get','resource':'pods','namespace':NS}
for nm,p,b in [('sar',AU+'subjectaccessreviews',{'spec':{'user':'bob','resourceAttributes':ra}}),('sar none',AU+'subjectaccessreviews',{'spec':{}}),('sar both',AU+'subjectaccessreviews',{'spec':{'user':'x','resourceAttributes':ra,'nonResourceAttributes':{'path':'/x','verb':'get'}}}),('sar path',AU+'subjectaccessreviews',{'spec':{'user':'bob','groups':['system:authenticated'],'nonResourceAttributes':{'path':'/healthz','verb':'get'}}}),('sar meta',AU+'subjectaccessreviews',{'metadata':{'name':'x'},'spec':{'user':'bob','resourceAttributes':ra}}),('ssar',AU+'selfsubjectaccessreviews',{'spec':{'resourceAttributes':ra}}),('lsar',AU+'namespaces/%s/localsubjectaccessreviews'%NS,{'spec':{'user':'bob','resourceAttributes':ra}}),('lsar ns',AU+'namespaces/%s/localsubjectaccessreviews'%NS,{'spec':{'user':'bob','resourceAttributes':{'verb':'get','resource':'pods'}}}),('ssrr',AU+'selfsubjectrulesreviews',{'spec':{'namespace':NS}}),('ssrr none',AU+'selfsubjectrulesreviews',{'spec':{}}),('ssr','/apis/authentication.k8s.io/v1/selfsubjectreviews',{}),('tr bad','/apis/authentication.k8s.io/v1/tokenreviews',{'spec':{'token':'x'}}),('tr none','/apis/authentication.k8s.io/v1/tokenreviews',{'spec':{}})]: T(nm,'POST',p,b)
T('ssar bob','POST',AU+'selfsubjectaccessreviews',{'spec':{'resourceAttributes':ra}},user='bob')
T('ssrr bob','POST',AU+'selfsubjectrulesreviews',{'spec':{'namespace':NS}},user='bob')
T('forb list','GET',C+'secrets',None,user='bob'); T('forb get','GET',C+'secrets/x',None,user='bob'); T('forb cluster','GET','/api/v1/nodes',None,user='bob'); T('forb apps','DELETE',A+'deployments/x',None,user='bob'); T('forb sub','PUT',A+'deployments/x/status',{},user='bob'); T('forb path','GET','/metrics',None,user='bob'); 
T('forb watch','GET',C+'secrets?watch=1',None,user='bob'); T('forb dc','DELETE',C+'secrets',None,user='bob');T('forb create','POST',C+'secrets',{'metadata':{'name':'zz'}},user='bob')
T('esc','POST',R+'roles',{'metadata':{'name':'esc'},'rules':[{'apiGroups':['*'],'resources':['*'],'verbs':['*']}]},user='bob')
T('eve role','POST',R+'roles',{'metadata':{'name':'rbacadmin'},'rules':[{'apiGroups':['rbac.authorization.k8s.io'],'resources':['roles','rolebindings'],'verbs':['create','update','get']},{'apiGroups':[''],'resources':['pods'],'verbs':['get']}]}); T('eve binding','POST',R+'rolebindings',{'metadata':{'name':'rbacadmin'},'roleRef':{'apiGroup':'rbac.authorization.k8s.io','kind':'Role','name':'rbacadmin'},'subjects':[{'kind':'User','name':'eve'}]})
time.sleep(2)
T('esc eve','POST',R+'roles',{'metadata':{'name':'esc'},'rules':[{'apiGroups':['','apps'],'resources':['pods','secrets'],'verbs':['get','list']},{'nonResourceURLs':['/x'],'verbs':['get']}]},user='eve')
T('esc eve2','POST',R+'roles',{'metadata':{'name':'esc'},'rules':[{'apiGroups':['','apps'],'resources':['pods','secrets'],'verbs':['get','list'],'resourceNames':['a','b']}]},user='eve')
T('esc eve ok','POST',R+'roles',{'metadata':{'name':'esc2'},'rules':[{'apiGroups':[''],'resources':['pods'],'verbs':['get'],'resourceNames':['a','b']}]},user='eve')
T('bind eve','POST',R+'rolebindings',{'metadata':{'name':'escb'},'roleRef':{'apiGroup':'rbac.authorization.k8s.io','kind':'Role','name':'rbacadmin'},'subjects':[{'kind':'User','name':'x'}]},user='eve')
T('bind eve missing','POST',R+'rolebindings',{'metadata':{'name':'escb2'},'roleRef':{'apiGroup':'rbac.authorization.k8s.io','kind':'Role','name':'nope'},'subjects':[{'kind':'User','name':'x'}]},user='eve')
T('bind eve admin','POST',R+'rolebindings',{'metadata':{'name':'escb3'},'roleRef':{'apiGroup':'rbac.authorization.k8s.io','kind':'ClusterRole','name':'system:basic-user'},'subjects':[{'kind':'User','name':'x'}]},user='eve')
