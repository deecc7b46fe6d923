
 598ff4399c235e6ded4135696f679a32m
Otype.googleapis.com/envoy.config.endpoint.v3.LocalityLbEndpoints.LbEndpointList



fd00::1ûA""shop/web:https/us-1/[fd00::1]:8443J4
2
fairlead.dev"

asOf7

epoch
recorded