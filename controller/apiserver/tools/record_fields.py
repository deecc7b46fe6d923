"""Records what a real kube-apiserver answers to patches, applies, field validation and custom resources, for
tests/recorded_fields.rs.

Usage: record_fields.py https://HOST:PORT ADMIN_TOKEN > controller/apiserver/tests/recorded_fields.jsonl

The server must be fresh and without a controller manager. Each line is one request with its answer: the code, the
warnings, and the causes of a refusal or the object with its managedFields, without what differs from run to run.
"""

import copy, json, re, ssl, sys, time, urllib.error, urllib.request

BASE, TOKEN = sys.argv[1:3]
TLS = ssl._create_unverified_context()
AP = 'application/apply-patch+yaml'
MP = 'application/merge-patch+json'
JP = 'application/json-patch+json'
SP = 'application/strategic-merge-patch+json'
DROP = {'uid', 'resourceVersion', 'creationTimestamp', 'deletionTimestamp', 'lastTransitionTime', 'storageVersionHash'}

# Messages with these words hold a dump of the object, the text of a library, or fields in no order.
FOREIGN = ('Invalid value: "{', 'map[', 'compilation failed', 'regexp', 'yaml:', 'errors:', "is missing in '")


def call(method, path, body=None, kind='application/json'):
    data = None
    if body is not None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, method=method, data=data)
    for name, value in (('Authorization', 'Bearer ' + TOKEN), ('User-Agent', 'recorded/1')):
        request.add_header(name, value)
    if data is not None:
        request.add_header('Content-Type', kind)
    try:
        with urllib.request.urlopen(request, context=TLS) as answer:
            return answer.status, answer.read().decode(), answer.headers.get_all('Warning') or []
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read().decode(), answer.headers.get_all('Warning') or []


def normal(value):
    """The answer without what differs from run to run; tests/recorded_fields.rs does the same."""
    if isinstance(value, list):
        return [normal(x) for x in value]
    if not isinstance(value, dict):
        return value
    pairs = ((k, 'TIME' if k == 'time' else normal(x)) for k, x in value.items() if k not in DROP)
    return {k: 'IP' if k in ('clusterIP', 'clusterIPs') else x for k, x in pairs}


def step(name, method, path, body=None, kind='application/json', nomsg=False):
    code, text, warnings = call(method, path, body, kind)
    line = {'name': name, 'method': method, 'path': path}
    if body is not None:
        line['body'] = body
        line['type'] = kind
    line['code'] = code
    if warnings:
        line['warnings'] = warnings
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    if code >= 400:
        causes = (answer.get('details') or {}).get('causes') or []
        line['reason'] = answer.get('reason')
        line['causes'] = sorted('%s %s' % (c.get('reason', ''), c.get('field', '')) for c in causes)
        message = answer.get('message') or ''
        if not nomsg and len(causes) < 2 and not any(words in message for words in FOREIGN):
            line['message'] = answer.get('message')
    else:
        line['object'] = normal(answer)
    print(json.dumps(line, separators=(',', ':')))
    return answer


def settle():
    """Until the server's own controllers have done their part."""
    time.sleep(2)


step('namespace', 'POST', '/api/v1/namespaces', {'metadata': {'name': 'fields'}})
ns = '/api/v1/namespaces/fields'
cm=lambda n,d,**m: {'apiVersion':'v1','kind':'ConfigMap','metadata':{'name':n,**m},'data':d}
step('create cm','POST',ns+'/configmaps?fieldManager=m1',cm('c1',{'a':'1','b':'2'}))
step('update cm','PUT',ns+'/configmaps/c1?fieldManager=m2',cm('c1',{'a':'9','c':'3'},labels={'x':'y'}))
step('update same','PUT',ns+'/configmaps/c1?fieldManager=m3',cm('c1',{'a':'9','c':'3'},labels={'x':'y'}))
step('merge','PATCH',ns+'/configmaps/c1?fieldManager=m3',{'data':{'a':None,'d':'4'}},MP)
step('strategic','PATCH',ns+'/configmaps/c1?fieldManager=m4',{'data':{'$patch':'replace','z':'1'}},SP)
step('strategic bad','PATCH',ns+'/configmaps/c1?fieldManager=m4',{'data':{'$patch':'explode','z':'1'}},SP)
step('json','PATCH',ns+'/configmaps/c1?fieldManager=m5',[{'op':'add','path':'/data/q','value':'1'}],JP)
step('json bad path','PATCH',ns+'/configmaps/c1',[{'op':'remove','path':'/data/nope'}],JP)
step('json test fails','PATCH',ns+'/configmaps/c1',[{'op':'test','path':'/data/q','value':'7'}],JP)
step('json bad op','PATCH',ns+'/configmaps/c1',[{'op':'foo','path':'/data/q','value':'7'}],JP)
step('json not list','PATCH',ns+'/configmaps/c1',{'a':1},JP)
step('json garbage','PATCH',ns+'/configmaps/c1','{',JP)
step('merge garbage','PATCH',ns+'/configmaps/c1','{',MP)
step('merge list','PATCH',ns+'/configmaps/c1','[]',MP)
step('strategic garbage','PATCH',ns+'/configmaps/c1','{',SP)
step('patch type unknown','PATCH',ns+'/configmaps/c1','{}','application/json')
step('apply new','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c2',{'a':'1','b':'2'}),AP)
step('apply same','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c2',{'a':'1','b':'2'}),AP)
step('apply conflict','PATCH',ns+'/configmaps/c2?fieldManager=a2',cm('c2',{'a':'2','b':'3'}),AP)
step('apply share','PATCH',ns+'/configmaps/c2?fieldManager=a2',cm('c2',{'a':'1'}),AP)
step('apply force','PATCH',ns+'/configmaps/c2?fieldManager=a2&force=true',cm('c2',{'a':'5','z':'3'}),AP)
step('apply drop','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c2',{}),AP)
step('apply conflict update','PATCH',ns+'/configmaps/c1?fieldManager=a1',cm('c1',{'z':'7','q':'9'}),AP)
step('apply no manager','PATCH',ns+'/configmaps/c2',cm('c2',{}),AP)
step('apply wrong version','PATCH',ns+'/configmaps/c2?fieldManager=a1',{**cm('c2',{}),'apiVersion':'v2'},AP)
step('apply wrong kind','PATCH',ns+'/configmaps/c2?fieldManager=a1',{**cm('c2',{}),'kind':'Secret'},AP)
step('apply no kind','PATCH',ns+'/configmaps/c2?fieldManager=a1',{'metadata':{'name':'c2'}},AP)
step('apply managedFields','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c2',{},managedFields=[]),AP)
step('apply name mismatch','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c9',{}),AP)
step('apply unknown','PATCH',ns+'/configmaps/c2?fieldManager=a1',{**cm('c2',{}),'foo':1},AP)
step('apply type','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c2',{'a':1}),AP)
step('apply garbage','PATCH',ns+'/configmaps/c2?fieldManager=a1','{"a',AP)
step('apply not object','PATCH',ns+'/configmaps/c2?fieldManager=a1','[]',AP)
step('apply rv','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c2',{},resourceVersion='1'),AP)
step('apply uid','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c2',{},uid='1'),AP)
step('apply ns mismatch','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c2',{},namespace='other'),AP)
step('manager too long','PATCH',ns+'/configmaps/c2?fieldManager='+'x'*129,cm('c2',{}),AP)
step('clear managed','PATCH',ns+'/configmaps/c2?fieldManager=m',{'metadata':{'managedFields':[]}},MP)
step('apply after clear','PATCH',ns+'/configmaps/c2?fieldManager=a1',cm('c2',{'a':'7'}),AP)
step('force after clear','PATCH',ns+'/configmaps/c2?fieldManager=a1&force=true',cm('c2',{'a':'7'}),AP)
step('bad managed','PATCH',ns+'/configmaps/c2?fieldManager=m',{'metadata':{'managedFields':[{'manager':'x'}]}},MP)
step('strict unknown','POST',ns+'/configmaps?fieldValidation=Strict',{**cm('c3',{}),'foo':1,'bar':{'x':1}})
step('warn unknown','POST',ns+'/configmaps?fieldValidation=Warn&fieldManager=m',{**cm('c3',{}),'foo':1,'bar':{'x':1}})
step('ignore unknown','PUT',ns+'/configmaps/c3?fieldValidation=Ignore&fieldManager=m',{**cm('c3',{}),'foo':1})
step('bad directive','PUT',ns+'/configmaps/c3?fieldValidation=Nope',{**cm('c3',{}),'foo':1})
step('dup strict','PUT',ns+'/configmaps/c3?fieldValidation=Strict','{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c3"},"data":{"a":"1","a":"2"}}')
step('dup warn','PUT',ns+'/configmaps/c3?fieldManager=m','{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c3","name":"c3"},"data":{"a":"1","a":"2"}}')
step('type err','PUT',ns+'/configmaps/c3',cm('c3',{'a':1}))
step('type err2','PUT',ns+'/configmaps/c3',cm('c3',[]))
step('type err3','PUT',ns+'/configmaps/c3',{**cm('c3',{}),'immutable':'x'})
step('b64','PUT',ns+'/configmaps/c3',{**cm('c3',{}),'binaryData':{'x':'?'}})
step('patch unknown strict','PATCH',ns+'/configmaps/c3?fieldValidation=Strict',{'foo':1},MP)
step('patch unknown warn','PATCH',ns+'/configmaps/c3?fieldManager=m',{'foo':1},MP)
step('patch dup','PATCH',ns+'/configmaps/c3?fieldManager=m','{"data":{"a":"1","a":"3"}}',MP)
step('patch dup strict','PATCH',ns+'/configmaps/c3?fieldValidation=Strict','{"data":{"a":"1","a":"3"}}',MP)
step('json patch unknown strict','PATCH',ns+'/configmaps/c3?fieldValidation=Strict',[{'op':'add','path':'/foo','value':1,'xx':2}],JP)
step('strategic unknown strict','PATCH',ns+'/configmaps/c3?fieldValidation=Strict',{'foo':1},SP)
step('apply dup strict','PATCH',ns+'/configmaps/c3?fieldValidation=Strict&fieldManager=q','apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c3}\ndata: {a: "1", a: "2"}\n',AP)
step('apply dup warn','PATCH',ns+'/configmaps/c3?fieldManager=q&force=true','apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c3}\ndata: {a: "1", a: "2"}\n',AP)
dep={'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'d1','labels':{'a':'b'}},'spec':{'replicas':1,'selector':{'matchLabels':{'a':'b'}},'template':{'metadata':{'labels':{'a':'b'}},'spec':{'containers':[{'name':'c','image':'i','ports':[{'containerPort':80}],'env':[{'name':'E','value':'1'}],'resources':{'limits':{'cpu':'0.5','memory':'1024Mi'}}}],'volumes':[{'name':'v','emptyDir':{}}],'tolerations':[{'key':'k','operator':'Exists'}]}}}}
D='/apis/apps/v1/namespaces/fields/deployments'
step('create dep','POST',D+'?fieldManager=m1',dep)
step('dep strategic','PATCH',D+'/d1?fieldManager=m2',{'spec':{'template':{'spec':{'containers':[{'name':'d','image':'j'},{'name':'c','env':[{'name':'F','value':'2'}]}],'$setElementOrder/containers':[{'name':'d'},{'name':'c'}],'volumes':[{'name':'v','$retainKeys':['name','hostPath'],'hostPath':{'path':'/x'}}]}}}},SP)
step('dep strategic delete','PATCH',D+'/d1?fieldManager=m2',{'spec':{'template':{'spec':{'containers':[{'name':'d','$patch':'delete'}]}}}},SP)
step('dep strategic nokey','PATCH',D+'/d1?fieldManager=m2',{'spec':{'template':{'spec':{'containers':[{'image':'d'}]}}}},SP)
step('dep strategic order','PATCH',D+'/d1?fieldManager=m2',{'spec':{'template':{'spec':{'$setElementOrder/containers':[{'name':'x'}],'containers':[{'name':'c'}]}}}},SP)
step('dep strategic retain','PATCH',D+'/d1?fieldManager=m2',{'spec':{'strategy':{'$retainKeys':['type'],'type':'Recreate'}}},SP)
step('dep strategic retain bad','PATCH',D+'/d1?fieldManager=m2',{'spec':{'strategy':{'$retainKeys':['type'],'rollingUpdate':{}}}},SP)
step('dep unknown','PATCH',D+'/d1?fieldValidation=Strict',{'spec':{'foo':1,'template':{'spec':{'containers':[{'name':'c','bar':1}]}}}},SP)
step('dep type','PATCH',D+'/d1',{'spec':{'replicas':'x'}},MP)
step('dep type2','PATCH',D+'/d1',{'spec':{'template':{'spec':{'containers':[{'name':'c','image':'i','ports':[{'containerPort':'x'}]}]}}}},MP)
step('dep type3','PATCH',D+'/d1',{'spec':{'template':{'spec':{'containers':{}}}}},MP)
step('dep int range','PATCH',D+'/d1',{'spec':{'replicas':99999999999}},MP)
step('dep quantity','PATCH',D+'/d1',{'spec':{'template':{'spec':{'containers':[{'name':'c','image':'i','resources':{'limits':{'cpu':'x'}}}]}}}},MP)
step('dep intorstr','PATCH',D+'/d1',{'spec':{'strategy':{'type':'RollingUpdate','rollingUpdate':{'maxSurge':True}}}},MP)
step('dep apply','PATCH',D+'/d1?fieldManager=ap',{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'d1'},'spec':{'replicas':4,'template':{'spec':{'containers':[{'name':'c','image':'i2'},{'name':'n','image':'x'}]}}}},AP)
step('dep apply force','PATCH',D+'/d1?fieldManager=ap&force=true',{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'d1'},'spec':{'replicas':4,'template':{'spec':{'containers':[{'name':'c','image':'i2','ports':[{'containerPort':80,'protocol':'TCP','name':'p'}]},{'name':'n','image':'x'}]}}}},AP)
step('dep apply drop','PATCH',D+'/d1?fieldManager=ap&force=true',{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'d1'},'spec':{'template':{'spec':{'containers':[{'name':'n','image':'x'}]}}}},AP)
step('dep apply dups','PATCH',D+'/d1?fieldManager=ap&force=true',{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'d1'},'spec':{'template':{'spec':{'containers':[{'name':'n','image':'x'},{'name':'n','image':'y'},{'image':'z'}]}}}},AP)
step('dep apply unk','PATCH',D+'/d1?fieldManager=ap&force=true',{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'d1'},'spec':{'foo':1,'template':{'spec':{'containers':[{'name':'n','imag':'x'}]}}}},AP,nomsg=True)
step('dep apply types','PATCH',D+'/d1?fieldManager=ap&force=true',{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'d1'},'spec':{'replicas':'x','selector':[],'template':{'spec':{'containers':{}}}}},AP)
step('dep status','PATCH',D+'/d1/status?fieldManager=st',{'status':{'replicas':3},'spec':{'replicas':9},'metadata':{'labels':{'q':'r'},'annotations':{'q':'r'}}},MP)
step('dep status apply','PATCH',D+'/d1/status?fieldManager=sta',{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'name':'d1'},'status':{'readyReplicas':2}},AP)
S=ns+'/services'
svc={'apiVersion':'v1','kind':'Service','metadata':{'name':'s1'},'spec':{'selector':{'a':'b'},'ports':[{'name':'t','port':53},{'name':'u','port':53,'protocol':'UDP'}]}}
step('svc apply','PATCH',S+'/s1?fieldManager=a',svc,AP)
step('svc apply other','PATCH',S+'/s1?fieldManager=b',{'apiVersion':'v1','kind':'Service','metadata':{'name':'s1'},'spec':{'ports':[{'port':53,'protocol':'TCP','name':'zz'},{'port':9}],'selector':{'x':'y'}}},AP)
step('svc strategic','PATCH',S+'/s1?fieldManager=c',{'spec':{'ports':[{'port':53,'targetPort':99}]}},SP)
step('svc fin','PATCH',S+'/s1?fieldManager=c',{'metadata':{'finalizers':['a/b','c/d'],'ownerReferences':[]}},SP)
step('svc fin del','PATCH',S+'/s1?fieldManager=c',{'metadata':{'$deleteFromPrimitiveList/finalizers':['a/b']}},SP)
step('svc fin del2','PATCH',S+'/s1?fieldManager=c',{'metadata':{'finalizers':None}},SP)
step('svc apply2','PATCH',S+'/s1?fieldManager=a',{'apiVersion':'v1','kind':'Service','metadata':{'name':'s1'},'spec':{'ports':[{'name':'t','port':53}]}},AP)
step('svc dry','PATCH',S+'/s1?fieldManager=dry&dryRun=All',{'metadata':{'labels':{'a':'b'}}},MP)

# Custom resources.

CR = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions'
W = '/apis/example.com/v1/namespaces/fields/widgets'
schema={'type':'object','properties':{'spec':{'type':'object','required':['size'],'properties':{
 'size':{'type':'integer','minimum':1,'maximum':100},'color':{'type':'string','default':'blue','enum':['blue','red']},'name':{'type':'string','minLength':2,'maxLength':5,'pattern':'^[a-z]+$'},
 'n':{'type':'string','nullable':True},'f':{'type':'number'},'when':{'type':'string','format':'date-time'},'ip':{'type':'string','format':'ipv4'},'dur':{'type':'string','format':'duration'},
 'ios':{'x-kubernetes-int-or-string':True},'any':{'x-kubernetes-preserve-unknown-fields':True},'m':{'type':'object','additionalProperties':{'type':'integer','maximum':5}},
 'am':{'type':'object','x-kubernetes-map-type':'atomic','properties':{'a':{'type':'string'},'b':{'type':'string'}}},
 'l':{'type':'array','maxItems':3,'minItems':1,'items':{'type':'string'}},'st':{'type':'array','x-kubernetes-list-type':'set','items':{'type':'string'}},
 'ports':{'type':'array','x-kubernetes-list-type':'map','x-kubernetes-list-map-keys':['port','proto'],'items':{'type':'object','required':['port'],'properties':{'port':{'type':'integer'},'proto':{'type':'string','default':'TCP'},'v':{'type':'integer'}},'x-kubernetes-validations':[{'rule':'!has(oldSelf.v) || (has(self.v) && self.v >= oldSelf.v)','message':'v shrinks'}]}},
 'emb':{'type':'object','x-kubernetes-embedded-resource':True,'x-kubernetes-preserve-unknown-fields':True},
 'one':{'type':'object','properties':{'a':{'type':'string'},'b':{'type':'string'}},'oneOf':[{'required':['a']},{'required':['b']}]},
 'anyof':{'type':'object','properties':{'a':{'type':'integer'}},'anyOf':[{'properties':{'a':{'minimum':5}}},{'properties':{'a':{'maximum':1}}}]},
 'allof':{'type':'integer','allOf':[{'minimum':5},{'multipleOf':2}]},'not':{'type':'integer','not':{'enum':[3]}},
 'b':{'type':'boolean'},'mp':{'type':'object','minProperties':1,'maxProperties':1,'additionalProperties':{'type':'string'}},
 },'x-kubernetes-validations':[{'rule':"self.size < 10 || self.color == 'red'",'message':'big ones are red'},{'rule':"!has(self.name) || self.name != 'bad'",'reason':'FieldValueForbidden','fieldPath':'.name','messageExpression':"'no ' + self.name"}]},
 'status':{'type':'object','properties':{'replicas':{'type':'integer'},'conditions':{'type':'array','x-kubernetes-list-type':'map','x-kubernetes-list-map-keys':['type'],'items':{'type':'object','required':['type'],'properties':{'type':{'type':'string'},'status':{'type':'string'}}}}}}}}
crd={'apiVersion':'apiextensions.k8s.io/v1','kind':'CustomResourceDefinition','metadata':{'name':'widgets.example.com'},'spec':{'group':'example.com','scope':'Namespaced','names':{'plural':'widgets','kind':'Widget'},'versions':[{'name':'v1','served':True,'storage':True,'subresources':{'status':{}},'schema':{'openAPIV3Schema':schema}},{'name':'v1beta1','served':True,'storage':False,'schema':{'openAPIV3Schema':{'type':'object','x-kubernetes-preserve-unknown-fields':True}}}]}}
step('create crd','POST',CR+'?fieldManager=m',crd)
settle()
step('get crd','GET',CR+'/widgets.example.com')
step('disc','GET','/apis/example.com/v1')
w=lambda n,spec,**m:{'apiVersion':'example.com/v1','kind':'Widget','metadata':{'name':n,**m},'spec':spec}
step('create','POST',W+'?fieldManager=m',w('a',{'size':3,'ports':[{'port':1},{'port':2,'v':5}],'any':{'x':[1,{'y':None}]},'n':None,'color':None,'m':{'k':1},'l':['x'],'st':['p','q'],'am':{'a':'1'}}))
step('get beta','GET',W.replace('v1/','v1beta1/')+'/a')
for name,spec in {
 'missing':{}, 'type':{'size':'x'},'float':{'size':1.5},'min':{'size':0},'max':{'size':101,'color':'red'},'enum':{'size':1,'color':'green'},'short':{'size':1,'name':'a'},'long':{'size':1,'name':'abcdef'},'pattern':{'size':1,'name':'AB'},
 'null':{'size':None},'n':{'size':1,'n':None},'f':{'size':1,'f':1},'f2':{'size':1,'f':'x'},'when':{'size':1,'when':'x'},'ip':{'size':1,'ip':'x'},'dur':{'size':1,'dur':'x'},'ios':{'size':1,'ios':True},'ios2':{'size':1,'ios':1.5},
 'm':{'size':1,'m':{'a':9,'b':'x'}},'m2':{'size':1,'m':[]},'l0':{'size':1,'l':[]},'l4':{'size':1,'l':['a','b','c','d']},'ltype':{'size':1,'l':['a',1,None]},'set':{'size':1,'st':['a','b','a','a']},
 'ports dup':{'size':1,'ports':[{'port':1},{'port':1,'proto':'TCP'}]},'ports':{'size':1,'ports':[{'proto':'x'}]},'ports2':{'size':1,'ports':['x']},
 'emb':{'size':1,'emb':{'a':1}},'emb2':{'size':1,'emb':{'apiVersion':'v1','kind':'X','metadata':{'name':'q','foo':1},'z':1}},'one':{'size':1,'one':{}},'one2':{'size':1,'one':{'a':'1','b':'2'}},'anyof':{'size':1,'anyof':{'a':3}},'allof':{'size':1,'allof':3},'allof1':{'size':1,'allof':4},'not':{'size':1,'not':3},'b':{'size':1,'b':'true'},'mp0':{'size':1,'mp':{}},'mp2':{'size':1,'mp':{'a':'1','b':'2'}},
 'cel':{'size':50},'cel2':{'size':1,'name':'bad'},'cel+type':{'size':50,'name':1},'cel+min':{'size':50,'name':'a'},'unknown':{'size':1,'foo':1,'ports':[{'port':1,'bar':2}]},'spec not obj':[],'bigint':{'size':99999999999999999999},
}.items():
    step('bad '+name,'POST',W+'?dryRun=All&fieldValidation=Warn&fieldManager=m',w('x',spec))
step('strict','POST',W+'?dryRun=All&fieldValidation=Strict',w('x',{'size':1,'foo':1,'bar':2,'ports':[{'port':1,'bar':2}]}))
step('strict dup','POST',W+'?dryRun=All&fieldValidation=Strict','{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"x"},"spec":{"size":1,"size":2,"foo":1}}')
step('strict meta','POST',W+'?dryRun=All&fieldValidation=Strict',w('x',{'size':1},foo=1))
step('warn meta','POST',W+'?dryRun=All&fieldManager=m',{**w('x',{'size':1},foo=1),'zzz':1})
step('meta type','POST',W+'?dryRun=All',w('x',{'size':1},labels={'a':1}))
step('meta type2','POST',W+'?dryRun=All',w('x',{'size':1},labels=[]))
step('no kind','POST',W,{'apiVersion':'example.com/v1','metadata':{'name':'q'},'spec':{'size':1}})
step('no apiver','POST',W,{'kind':'Widget','metadata':{'name':'q'},'spec':{'size':1}})
step('wrong kind','POST',W,{**w('q',{'size':1}),'kind':'Foo'})
step('wrong ver','POST',W,{**w('q',{'size':1}),'apiVersion':'example.com/v2'})
step('no name','POST',W,{'apiVersion':'example.com/v1','kind':'Widget','spec':{'size':1}})
step('bad name','POST',W,w('A_b',{'size':1}))
step('put no rv','PUT',W+'/a',w('a',{'size':4}))
step('patch strict','PATCH',W+'/a?fieldValidation=Strict',{'spec':{'foo':1}},MP)
step('patch warn','PATCH',W+'/a?fieldManager=p',{'spec':{'foo':1,'size':4}},MP)
step('patch strategic','PATCH',W+'/a',{'spec':{'foo':1}},SP)
step('patch json','PATCH',W+'/a?fieldManager=p',[{'op':'add','path':'/spec/l/-','value':'y'}],JP)
step('patch bad','PATCH',W+'/a?fieldManager=p',{'spec':{'size':'x'}},MP)
step('patch cel','PATCH',W+'/a?fieldManager=p',{'spec':{'size':20}},MP)
step('patch ports shrink','PATCH',W+'/a?fieldManager=p',{'spec':{'ports':[{'port':2,'v':3},{'port':1}]}},MP)
step('patch status','PATCH',W+'/a/status?fieldManager=s',{'status':{'replicas':1,'foo':2,'conditions':[{'type':'R','status':'T'}]},'spec':{'size':9},'metadata':{'labels':{'q':'r'}}},MP)
step('patch status bad','PATCH',W+'/a/status?fieldManager=s',{'status':{'replicas':'x'}},MP)
step('status through main','PATCH',W+'/a?fieldManager=s',{'status':{'replicas':7}},MP)
step('apply','PATCH',W+'/a?fieldManager=ap',w('a',{'size':4,'ports':[{'port':2,'v':6}],'st':['z'],'l':['n']}),AP)
step('apply force','PATCH',W+'/a?fieldManager=ap&force=true',w('a',{'size':4,'ports':[{'port':2,'v':6},{'port':3,'proto':'UDP'}],'st':['z'],'l':['n'],'am':{'b':'2'},'m':{'j':2}}),AP)
step('apply drop','PATCH',W+'/a?fieldManager=ap&force=true',w('a',{'ports':[{'port':3,'proto':'UDP'}]}),AP)
step('apply status','PATCH',W+'/a/status?fieldManager=aps&force=true',{'apiVersion':'example.com/v1','kind':'Widget','metadata':{'name':'a'},'status':{'conditions':[{'type':'A','status':'x'}]}},AP)
step('apply unknown','PATCH',W+'/a?fieldManager=ap&force=true',w('a',{'foo':1}),AP)
step('apply unknown strict','PATCH',W+'/a?fieldManager=ap&force=true&fieldValidation=Strict',w('a',{'foo':1}),AP)
step('apply nokey','PATCH',W+'/a?fieldManager=ap&force=true',w('a',{'ports':[{'v':1}]}),AP)
step('apply new','PATCH',W+'/b?fieldManager=ap',w('b',{'size':2}),AP)
step('apply new beta','PATCH',W.replace('v1/','v1beta1/')+'/b?fieldManager=ap2',{**w('b',{'size':2}),'apiVersion':'example.com/v1beta1'},AP)
step('apply beta conflict','PATCH',W.replace('v1/','v1beta1/')+'/b?fieldManager=ap2',{**w('b',{'size':3,'foo':{'x':1}}),'apiVersion':'example.com/v1beta1'},AP)
step('apply beta drop','PATCH',W.replace('v1/','v1beta1/')+'/b?fieldManager=ap',{**w('b',{'size':2,'color':'red'}),'apiVersion':'example.com/v1beta1'},AP)
step('get b','GET',W+'/b')
# CRD update rules
step('crd patch scope','PATCH',CR+'/widgets.example.com',{'spec':{'scope':'Cluster'}},MP)
step('crd patch kind','PATCH',CR+'/widgets.example.com',{'spec':{'names':{'kind':'Foo','listKind':'FooList'}}},MP)
step('crd patch plural','PATCH',CR+'/widgets.example.com',{'spec':{'names':{'plural':'foos'}}},MP)
step('crd drop storage','PATCH',CR+'/widgets.example.com',[{'op':'remove','path':'/spec/versions/0'},{'op':'replace','path':'/spec/versions/0/storage','value':True}],JP,nomsg=True)
step('crd short','PATCH',CR+'/widgets.example.com?fieldManager=z',{'spec':{'names':{'shortNames':['wd']}}},MP)
settle()
step('crd get','GET',CR+'/widgets.example.com')
bad=copy.deepcopy(crd); bad['metadata']['name']='bads.example.com'; bad['spec']['names']={'plural':'bads','kind':'Bad'}
def badschema(n,s,**kw):
    b=copy.deepcopy(bad); b['spec']['versions']=b['spec']['versions'][:1]; b['spec']['versions'][0]['schema']['openAPIV3Schema']={'type':'object','properties':{'spec':s}}; b['spec'].update(kw); step('badcrd '+n,'POST',CR+'?dryRun=All',b)
badschema('notype',{}); badschema('array',{'type':'array'}); badschema('tuple',{'type':'tuple'}); badschema('ref',{'type':'object','$ref':'#/x'}); badschema('addl',{'type':'object','properties':{'a':{'type':'string'}},'additionalProperties':{'type':'string'}}); badschema('allof',{'type':'object','allOf':[{'type':'object'}]}); badschema('unique',{'type':'array','items':{'type':'string'},'uniqueItems':True}); badschema('mapkeys',{'type':'array','x-kubernetes-list-type':'map','items':{'type':'object'}}); badschema('mapkeys2',{'type':'array','x-kubernetes-list-type':'map','x-kubernetes-list-map-keys':['a'],'items':{'type':'object','properties':{'a':{'type':'string'}}}}); badschema('default',{'type':'integer','default':'x'}); badschema('default2',{'type':'object','default':{'a':1},'properties':{'b':{'type':'string'}}}); badschema('cel syntax',{'type':'object','x-kubernetes-validations':[{'rule':'self.'}]}); badschema('cel var',{'type':'object','x-kubernetes-validations':[{'rule':'other == 1'}]}); badschema('cel field',{'type':'object','x-kubernetes-validations':[{'rule':'self.zzz == 1'}]}); badschema('cel bool',{'type':'object','x-kubernetes-validations':[{'rule':'1 + 1'}]}); badschema('cel func',{'type':'object','x-kubernetes-validations':[{'rule':'frob(self)'}]}); badschema('cel old',{'type':'array','maxItems':5,'items':{'type':'integer','x-kubernetes-validations':[{'rule':'self == oldSelf'}]}}); badschema('cel empty',{'type':'object','x-kubernetes-validations':[{'rule':''}]}); badschema('cel reason',{'type':'object','x-kubernetes-validations':[{'rule':'true','reason':'X'}]}); badschema('cel nl',{'type':'object','x-kubernetes-validations':[{'rule':'true\n&& true'}]}); badschema('cel optional',{'type':'object','x-kubernetes-validations':[{'rule':'true','optionalOldSelf':True}]}); badschema('pattern',{'type':'string','pattern':'('}); badschema('ios',{'x-kubernetes-int-or-string':True,'anyOf':[{'type':'integer'},{'type':'string'}]}); badschema('listtype',{'type':'array','x-kubernetes-list-type':'foo','items':{'type':'string'}}); badschema('listtype2',{'type':'object','x-kubernetes-list-type':'set'}); badschema('maptype',{'type':'object','x-kubernetes-map-type':'foo'}); badschema('setobj',{'type':'array','x-kubernetes-list-type':'set','items':{'type':'object'}}); badschema('emb',{'type':'object','x-kubernetes-embedded-resource':True}); badschema('preserve false',{'type':'object','x-kubernetes-preserve-unknown-fields':False}); badschema('format',{'type':'string','format':'foo'}); badschema('unknown kw',{'type':'object','foo':1,'properties':{'a':{'type':'array','items':{'type':'string','bar':2}}}})
badschema('scope',{'type':'object'},scope='X'); badschema('group',{'type':'object'},group='foo'); badschema('names',{'type':'object'},names={'plural':'Bads','kind':'bad','listKind':'bad','shortNames':['X']}); badschema('noversions',{'type':'object'},versions=[]); badschema('k8s group',{'type':'object'},group='x.k8s.io'); badschema('webhook',{'type':'object'},conversion={'strategy':'Webhook'}); badschema('conv',{'type':'object'},conversion={'strategy':'Foo'}); badschema('preserve',{'type':'object'},preserveUnknownFields=True)
b=copy.deepcopy(bad); b['spec']['names']={'plural':'bads','kind':'Widget'}; b['spec']['versions']=b['spec']['versions'][:1]
step('crd conflicting','POST',CR+'?fieldManager=m',b); settle(); step('crd conflicting get','GET',CR+'/bads.example.com'); step('crd conflicting del','DELETE',CR+'/bads.example.com')
b=copy.deepcopy(bad); b['spec']['versions'][0]['additionalPrinterColumns']=[{'name':'A','type':'text','jsonPath':'a'},{'type':'string','format':'zzz'}]; b['spec']['versions'][0]['subresources']={'scale':{'specReplicasPath':'.status.x'}}; b['spec']['versions'].append(copy.deepcopy(b['spec']['versions'][0])); b['spec']['versions'][1]['name']='V2'
step('crd many','POST',CR,b,nomsg=True)
b=copy.deepcopy(bad); b['metadata']['name']='x.example.com'; b['spec']['versions'][0].pop('schema')
step('crd name schema','POST',CR,b,nomsg=True)
step('del a','DELETE',W+'/a')
step('delete crd','DELETE',CR+'/widgets.example.com')
settle()
step('gone','GET',CR+'/widgets.example.com')
step('gone w','GET',W+'/b')
