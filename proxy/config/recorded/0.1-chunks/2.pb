
 cd95a126e737d0243137fcc57534dedcn
Otype.googleapis.com/envoy.config.endpoint.v3.LocalityLbEndpoints.LbEndpointList



10.0.0.1ûA"shop/web:https/eu-2/J4
2
fairlead.dev"

asOf7

epoch
recorded