
 dea5c6c52ab58ec16dcb0f4def04eeee
Btype.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment×
shop/web:httpsJ

eu-1:


10.0.0.1ûA

fairlead.dev

zonea"€ñF

eu-2


10.0.0.1ûA"J!

fairlead.dev

weight0*

us-1


fd00::1ûA" ("Œshop/web:httpsJ4
2
fairlead.dev"

asOf7

epoch
recorded