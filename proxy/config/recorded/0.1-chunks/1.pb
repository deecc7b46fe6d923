
 1398e29ec0c35f60a9d717e4c96215dcè
Otype.googleapis.com/envoy.config.endpoint.v3.LocalityLbEndpoints.LbEndpointList<
:


10.0.0.1˚A

fairlead.dev

zonea"shop/web:https/eu-1/J4
2
fairlead.dev"

asOf7

epoch
recorded